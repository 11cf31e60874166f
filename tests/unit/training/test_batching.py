"""Batches without padding: the same gradient, whatever tensors the examples lie in."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import make_tokenizer

from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.seq_cls import SeqCls
from fedlpp_cli.tasks.task import IGNORED, Example
from fedlpp_cli.training.batching import batch_maker, buckets, keeps_packed_apart, pack_rows, packed_batch
from fedlpp_cli.training.gradients import MeanGradient

LM = TaskSpec(max_length=48)
CLASSES = TaskSpec(kind="seq-cls", max_length=48, labels=("first", "second", "third"))
LENGTHS = (3, 20, 7, 7, 2, 13, 5, 20, 9)
ALL = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def example(length, *, label=None, prompt=0):
    random = torch.Generator().manual_seed(length)
    ids = tuple(torch.randint(3, 60, (length,), generator=random).tolist())
    labels = label if label is not None else (*[IGNORED] * prompt, *ids[prompt:])
    return Example(ids, labels, was_cut=False)


def adapted_on(folder, task):
    lora = resolve_lora(folder, task, LoraSpec(rank=4))
    model = AdaptedModel(open_model(folder, task).model, lora)
    values = first_values(folder, task, lora, seed=1)
    random = torch.Generator().manual_seed(0)
    # B is zero at first, and A would have no gradient.
    model.load({name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in values.items()})
    return model


def gradient(model, task, examples, batching):
    found = MeanGradient(
        model, task, TrainSpec(steps=1, max_grad_norm=0.0), make_batches=batch_maker(batching, model, task)
    )
    made = found.compute([examples[:5], examples[5:]])
    return made.loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters.values()])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batching", ["bucketed", "packed", "auto"])
def test_a_language_models_gradient_is_that_of_padded_batches(request, kind, batching):
    task = CausalLM(LM, make_tokenizer(), {})
    model = adapted_on(request.getfixturevalue(kind), LM)
    examples = [example(length, prompt=min(length - 1, number % 4)) for number, length in enumerate(LENGTHS)]
    loss, expected = gradient(model, task, examples, "padded")
    other_loss, found = gradient(model, task, examples, batching)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("batching", ["bucketed", "auto"])
def test_a_classifiers_gradient_is_that_of_padded_batches(bert, batching):
    task = SeqCls(CLASSES, make_tokenizer(), {})
    model = adapted_on(bert, CLASSES)
    examples = [example(length, label=number % 3) for number, length in enumerate(LENGTHS)]
    loss, expected = gradient(model, task, examples, "padded")
    other_loss, found = gradient(model, task, examples, batching)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_packed_example_sees_nothing_of_its_neighbours(request, kind):
    model = adapted_on(request.getfixturevalue(kind), LM)
    one, other, third = example(6), example(9), example(8)
    with torch.no_grad():
        said = [
            model.logits({name: tensor for name, tensor in packed_batch([row]).items() if name != "labels"})
            for row in ([one, other], [third, other])
        ]
    assert torch.allclose(said[0][0, 6:15], said[1][0, 8:17], atol=1e-5)


def test_packed_rows_say_where_examples_start_and_what_is_learned():
    batch = packed_batch([[example(3), example(2)], [example(4)]])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert batch["labels"][0].tolist() == [IGNORED, *example(3).labels[1:], IGNORED, *example(2).labels[1:]]
    assert batch["labels"][1].tolist() == [IGNORED, *example(4).labels[1:], IGNORED]
    assert batch["input_ids"][1].tolist() == [*example(4).input_ids, 0]
    assert "attention_mask" not in batch


@given(ALL)
def test_rows_hold_every_example_once_and_are_no_longer_than_the_longest(lengths):
    examples = [example(length) for length in lengths]
    rows = pack_rows(examples)
    assert sorted(id(one) for row in rows for one in row) == sorted(id(one) for one in examples)
    assert all(sum(len(one.input_ids) for one in row) <= max(lengths) for row in rows)
    # No two rows could be one.
    sizes = [sum(len(one.input_ids) for one in row) for row in rows]
    assert all(a + b > max(lengths) for a, b in itertools.combinations(sizes, 2))


@given(ALL, st.integers(0, 30))
def test_buckets_cost_the_least_of_all_cuts(lengths, pass_cost):
    def cost(cuts):
        return sum(len(cut) * len(cut[0].input_ids) + pass_cost for cut in cuts)

    found = buckets([example(length) for length in lengths[:8]], pass_cost)
    ordered = [one for bucket in found for one in bucket]
    assert [len(one.input_ids) for one in ordered] == sorted(lengths[:8], reverse=True)
    for marks in itertools.product((False, True), repeat=len(ordered) - 1):
        edges = [0, *[place + 1 for place, mark in enumerate(marks) if mark], len(ordered)]
        assert cost(found) <= cost([ordered[a:b] for a, b in itertools.pairwise(edges)])


def test_a_model_that_counts_positions_from_its_mask_is_not_packed(tmp_path):
    """OPT does: in a row without a mask its second example would stand behind the first."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=64, word_embed_proj_dim=16, **sizes))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    adapted, task = adapted_on(tmp_path, LM), CausalLM(LM, make_tokenizer(), {})
    assert not keeps_packed_apart(adapted)
    examples = [example(length) for length in LENGTHS]
    assert torch.allclose(*(gradient(adapted, task, examples, name)[1] for name in ("auto", "bucketed")))
    with pytest.raises(UsageError, match="--batching packed"):
        batch_maker("packed", adapted, task)


def test_a_classifier_is_not_packed(bert):
    with pytest.raises(UsageError, match="--batching packed"):
        batch_maker("packed", adapted_on(bert, CLASSES), SeqCls(CLASSES, make_tokenizer(), {}))
