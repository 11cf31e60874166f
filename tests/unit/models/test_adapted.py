"""An adapter on a base, over architectures."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.merge import merge
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

LM = TaskSpec(max_length=32)
CLASSIFIER = TaskSpec(kind="seq-cls", max_length=32, labels=("no", "yes", "perhaps"))
MODELS = [
    ("llama", LM),
    ("gpt2", LM),
    ("bert", CLASSIFIER),
    ("roberta", CLASSIFIER),
    ("llama", CLASSIFIER),
    ("gpt2", CLASSIFIER),
]
BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}


@pytest.fixture(params=MODELS, ids=lambda pair: f"{pair[0]} {pair[1].kind}")
def case(request):
    """Folder, task, resolved LoRA."""
    name, task = request.param
    folder = request.getfixturevalue(name)
    return folder, task, resolve_lora(folder, task, LoraSpec(rank=4, alpha=6.0))


def trained(values, seed=0):
    """The values after some training, as it were: no factor is zero."""
    random = torch.Generator().manual_seed(seed)
    return {name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in values.items()}


def adapted(case):
    folder, task, lora = case
    return AdaptedModel(open_model(folder, task).model, lora)


def test_the_untrained_adapter_changes_nothing(case):
    folder, task, lora = case
    values = first_values(folder, task, lora, seed=3)
    model = adapted(case)
    model.load(values)
    base = open_model(folder, task).model
    for name in (
        name
        for name in values
        if name.rpartition(".")[0] in lora.modules_to_save or name.startswith(lora.modules_to_save)
    ):
        base.get_parameter(name).data.copy_(values[name])
    with torch.no_grad():
        assert torch.equal(model.logits(BATCH), base(**BATCH).logits)


def test_what_is_loaded_is_read_back(case):
    values = trained(first_values(*case, seed=3))
    model = adapted(case)
    model.load(values)
    found = model.values()
    assert list(found) == sorted(values)
    assert all(torch.equal(found[name], values[name]) for name in values)


def test_only_the_adapter_gets_gradients(case):
    model = adapted(case)
    model.load(trained(first_values(*case, seed=3)))
    model.logits(BATCH).float().square().mean().backward()
    with_gradient = {id(p) for p in model.model.parameters() if p.grad is not None}
    assert with_gradient <= {id(p) for p in model.parameters.values()}
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters.values())


def test_merging_gives_the_same_logits(case):
    folder, task, lora = case
    values = trained(first_values(*case, seed=3))
    model = adapted(case)
    model.load(values)
    merged = open_model(folder, task).model
    merge(merged, values, lora)
    with torch.no_grad():
        assert torch.allclose(model.logits(BATCH), merged(**BATCH).logits, atol=1e-5)


def test_logits_are_those_of_a_plain_peft_model(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=4, alpha=6.0, use_rslora=True))
    values = trained(first_values(llama, LM, lora, seed=3))
    model = AdaptedModel(open_model(llama, LM).model, lora)
    model.load(values)
    config = LoraConfig(r=4, lora_alpha=6.0, use_rslora=True, target_modules=list(lora.target_modules))
    peft_model = get_peft_model(open_model(llama, LM).model, config)
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(values[name.removeprefix("base_model.model.").removesuffix(".default.weight")])
    peft_model.eval()
    with torch.no_grad():
        assert torch.equal(model.logits(BATCH), peft_model(**BATCH).logits)


def test_the_first_values_depend_on_seed_and_name_only(llama):
    some = resolve_lora(llama, LM, LoraSpec(rank=4, target_modules=("q_proj",)))
    more = resolve_lora(llama, LM, LoraSpec(rank=4, target_modules=("q_proj", "v_proj")))
    one, two = (first_values(llama, LM, lora, seed=5) for lora in (some, more))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = first_values(llama, LM, some, seed=6)
    assert not torch.equal(
        one["model.layers.0.self_attn.q_proj.lora_A"], other["model.layers.0.self_attn.q_proj.lora_A"]
    )
    assert all((value == 0).all() for name, value in one.items() if name.endswith("lora_B"))


def test_a_is_drawn_within_kaimings_bound(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=64))
    value = first_values(llama, LM, lora, seed=5)["model.layers.0.mlp.down_proj.lora_A"]
    bound = 1 / value.shape[1] ** 0.5
    assert value.abs().max() <= bound
    assert value.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_module_that_is_trained_whole_starts_at_the_bases_values(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=4, modules_to_save=("model.norm", "lm_head")))
    values = first_values(llama, LM, lora, seed=5)
    base = open_model(llama, LM).model
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(values[name], base.get_parameter(name))


def test_values_of_another_adapter_are_refused_by_name(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=4))
    values = first_values(llama, LM, resolve_lora(llama, LM, LoraSpec(rank=8)), seed=0)
    with pytest.raises(
        ModelError, match=r"component 'model.layers.0.mlp.down_proj.lora_A': the artifact has \(8, 32\)"
    ):
        AdaptedModel(open_model(llama, LM).model, lora).load(values)


def test_a_base_without_the_layers_is_refused(gpt2, llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=4))
    with pytest.raises(ModelError, match="the base model has no layer"):
        AdaptedModel(open_model(gpt2, LM).model, lora)


def test_in_bf16_the_base_is_bf16_and_the_adapter_is_not(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=4))
    model = AdaptedModel(open_model(llama, LM, compute="bf16").model, lora, compute="bf16")
    model.load(trained(first_values(llama, LM, lora, seed=3)))
    assert model.model.get_parameter("model.embed_tokens.weight").dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters.values()} == {torch.float32}
    model.logits(BATCH).float().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters.values())


def test_a_classifier_in_bf16_trains_its_head_in_float32(bert):
    lora = resolve_lora(bert, CLASSIFIER, LoraSpec(rank=4))
    model = AdaptedModel(open_model(bert, CLASSIFIER, compute="bf16").model, lora, compute="bf16")
    model.load(first_values(bert, CLASSIFIER, lora, seed=3))
    model.logits(BATCH).float().square().mean().backward()
    assert model.parameters["classifier.weight"].grad.dtype == torch.float32
