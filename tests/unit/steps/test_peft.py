"""Adapters out to PEFT and in from it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forge import header_of, read_all, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, write_jsonl

from fedlpp_cli import export, import_adapter
from fedlpp_cli.errors import GateError, InputError, ModelError, OutputExistsError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec

IDS = torch.tensor([[5, 6, 7, 8, 9]])
LM = TaskSpec(max_length=32)
CLASSIFIER = TaskSpec(kind="seq-cls", max_length=16, labels=LABELS)
CASES = [("llama", LM), ("gpt2", LM), ("bert", CLASSIFIER), ("roberta", CLASSIFIER), ("llama", CLASSIFIER)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} {case[1].kind}")
def trained(request, tmp_path_factory):
    """A federation after one round, for each architecture and task."""
    name, task = request.param
    federation = Federation(
        tmp_path_factory.mktemp("trained"),
        request.getfixturevalue(name),
        task=task,
        lora=LoraSpec(rank=4, alpha=6.0, use_rslora=name == "gpt2"),
        train=TrainSpec(steps=2, batch_size=4, learning_rate=5e-2),
        clients=("a",),
    )
    if task.kind == "seq-cls":
        write_jsonl(federation.data("a"), label_rows(8, seed=0))
    federation.play(1)
    return federation


def central_logits(federation):
    spec = header_of(federation.master(1)).spec.model
    model = AdaptedModel(open_model(federation.base, spec.task).model, spec.lora)
    model.load(read_all(federation.master(1)))
    with torch.no_grad():
        return model.logits({"input_ids": IDS})


def plain_model(federation):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if federation.task.kind == "causal-lm":
        return AutoModelForCausalLM.from_pretrained(federation.base)
    return AutoModelForSequenceClassification.from_pretrained(federation.base, num_labels=len(LABELS))


def test_peft_opens_the_exported_adapter_with_the_same_logits(trained, tmp_path):
    from peft import PeftModel

    export(trained.master(1), out=tmp_path / "adapter")
    model = PeftModel.from_pretrained(plain_model(trained), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, central_logits(trained), atol=1e-6)


def test_transformers_opens_the_merged_model_with_the_same_logits(trained, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    export(trained.master(1), out=tmp_path / "merged", format="merged", base=trained.base)
    auto = AutoModelForCausalLM if trained.task.kind == "causal-lm" else AutoModelForSequenceClassification
    model = auto.from_pretrained(tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "</s>"
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, central_logits(trained), atol=1e-5)
    if trained.task.kind == "seq-cls":
        assert model.config.id2label == dict(enumerate(LABELS))


def test_what_was_exported_comes_back_as_it_was(trained, tmp_path):
    export(trained.master(1), out=tmp_path / "adapter")
    result = import_adapter(tmp_path / "adapter", base=trained.base, out=tmp_path / "m.safetensors", task=trained.task)
    before, after = read_all(trained.master(1)), read_all(tmp_path / "m.safetensors")
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert header_of(tmp_path / "m.safetensors").spec.model == header_of(trained.master(1)).spec.model
    assert header_of(tmp_path / "m.safetensors").round == 0
    assert result.federation == result.sha256 == sha256_of(tmp_path / "m.safetensors")


def test_equal_masters_give_equal_folders(trained, tmp_path):
    for name in ("one", "two"):
        export(trained.master(1), out=tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_an_adapter_that_peft_trained_and_saved_is_imported(llama, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config).eval()
    model.save_pretrained(tmp_path / "adapter")
    import_adapter(tmp_path / "adapter", base=llama, out=tmp_path / "master.safetensors", task=LM)
    spec = header_of(tmp_path / "master.safetensors").spec.model
    assert (spec.lora.rank, spec.lora.alpha, len(spec.lora.target_modules)) == (3, 5.0, 4)
    adapted = AdaptedModel(open_model(llama, LM).model, spec.lora)
    adapted.load(read_all(tmp_path / "master.safetensors"))
    with torch.no_grad():
        assert torch.allclose(adapted.logits({"input_ids": IDS}), model(IDS).logits, atol=1e-6)


@pytest.fixture
def adapter(played, tmp_path):
    export(played.master(1), out=tmp_path / "adapter")
    return tmp_path / "adapter"


def bring(adapter, played, tmp_path, **options):
    return import_adapter(adapter, base=options.pop("base", played.base), out=tmp_path / "m", task=LM, **options)


def change_config(adapter, **fields):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "not a LoRA adapter"),
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"bias": "all"}, "bias is 'all'; only plain LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is"),
        ({"alpha_pattern": {"(.*)*!": 2}}, "alpha_pattern is"),
        ({"r": 0}, "rank: Expected `int` >= 1"),
        ({"r": 5}, r"is \(4, 32\), this base and task need \(5, 32\)"),
    ],
)
def test_adapters_of_other_kinds_are_refused_with_the_reason(adapter, played, tmp_path, fields, message):
    change_config(adapter, **fields)
    with pytest.raises(InputError, match=message):
        bring(adapter, played, tmp_path)


def test_weights_that_could_run_code_are_refused(adapter, played, tmp_path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"no adapter_model.safetensors; adapters in other formats can run code"):
        bring(adapter, played, tmp_path)


def test_what_is_missing_or_not_finite_is_refused(adapter, played, gpt2, tmp_path):
    with pytest.raises(InputError, match="no PEFT adapter lies there"):
        bring(tmp_path, played, tmp_path)
    with pytest.raises(ModelError, match="no linear layer is called"):
        bring(adapter, played, tmp_path, base=gpt2)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * float("nan")}, adapter / "adapter_model.safetensors")
    with pytest.raises(GateError, match="finite values are needed"):
        bring(adapter, played, tmp_path)
    save_file({**tensors, "strange.name": tensors[name].clone()}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"'strange.name' is not named as PEFT names"):
        bring(adapter, played, tmp_path)


def test_outputs_are_kept_and_a_merged_model_needs_its_base(adapter, played, tmp_path):
    with pytest.raises(OutputExistsError):
        export(played.master(1), out=adapter)
    with pytest.raises(UsageError, match="a merged model needs the base's weights"):
        export(played.master(1), out=tmp_path / "merged", format="merged")
    assert not (tmp_path / "merged").exists()
