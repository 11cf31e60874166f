"""Which layers are adapted and which are trained whole."""

import pytest

from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.first_values import resolve_lora
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

LM = TaskSpec(max_length=32)
CLASSIFIER = TaskSpec(kind="seq-cls", max_length=32, labels=("no", "yes"))


def resolve(folder, task, *targets, saved=()):
    wanted = LoraSpec(target_modules=targets, modules_to_save=saved) if targets else LoraSpec(modules_to_save=saved)
    return resolve_lora(folder, task, wanted)


def test_all_linear_leaves_out_the_output_layer(llama, gpt2):
    names = resolve(llama, LM).target_modules
    assert len(names) == 14
    assert "lm_head" not in names
    assert "model.layers.0.self_attn.q_proj" in names
    assert resolve(gpt2, LM).target_modules[0] == "transformer.h.0.attn.c_attn"


def test_all_linear_leaves_out_the_head_which_is_trained_whole(bert, roberta, llama, gpt2):
    assert resolve(bert, CLASSIFIER).modules_to_save == ("classifier",)
    assert resolve(roberta, CLASSIFIER).modules_to_save == ("classifier",)
    assert resolve(llama, CLASSIFIER).modules_to_save == ("score",)
    assert resolve(gpt2, CLASSIFIER).modules_to_save == ("score",)
    for folder in (bert, roberta, llama, gpt2):
        assert not any("classifier" in name or "score" in name for name in resolve(folder, CLASSIFIER).target_modules)


def test_a_name_stands_for_every_layer_that_ends_with_it(llama):
    assert resolve(llama, LM, "q_proj").target_modules == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    )
    assert resolve(llama, LM, "0.self_attn.q_proj", "1.mlp.up_proj").target_modules == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    )


def test_a_name_is_never_a_pattern_and_never_a_part_of_a_word(llama):
    for name in ("proj", "q-proj"):
        with pytest.raises(ModelError, match="no linear layer is called"):
            resolve(llama, LM, name)


def test_an_unknown_name_lists_the_layers(llama):
    with pytest.raises(ModelError, match="'query'; layers here: down_proj, gate_proj, k_proj"):
        resolve(llama, LM, "query")


def test_other_modules_can_be_trained_whole(llama):
    assert resolve(llama, LM, saved=("model.norm",)).modules_to_save == ("model.norm",)
    with pytest.raises(ModelError, match=r"has no module 'model.head'"):
        resolve(llama, LM, saved=("model.head",))


def test_an_output_layer_that_is_tied_to_the_embeddings_cannot_be_adapted(gpt2, llama):
    with pytest.raises(ModelError, match="'lm_head' shares its weights with the embeddings"):
        resolve(gpt2, LM, "lm_head")
    assert resolve(llama, LM, "lm_head").target_modules == ("lm_head",)


def test_a_task_longer_than_the_model_is_refused_with_the_longest_that_fits(llama, roberta):
    with pytest.raises(ModelError, match="max_length 65 is more than the 64 positions") as caught:
        resolve(llama, TaskSpec(max_length=65))
    assert caught.value.hint == "--max-length 64"
    with pytest.raises(ModelError, match="more than the 65 positions"):
        resolve(roberta, TaskSpec(kind="seq-cls", max_length=66, labels=("a", "b")))


def test_an_encoder_is_no_language_model(tmp_path, bert):
    with pytest.raises(ModelError, match=r"not a language model|cannot open it"):
        resolve(bert, LM)
