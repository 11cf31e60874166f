"""What enters the first adapted layer."""

import pytest
import torch
from support.tiny import LABELS

from fedlpp_cli.leakage.first_layer import find_first_layer, token_inputs
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.targets import choose_targets
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

CLASSES = TaskSpec(kind="seq-cls", max_length=16, labels=LABELS)


def adapted(folder, task=None, wanted=("all-linear",)):
    model = open_model(folder, task or TaskSpec(max_length=16)).model
    targets = choose_targets(model, wanted, ("classifier",) if task else ())
    return AdaptedModel(model, LoraSpec(rank=2, target_modules=targets)), targets


@pytest.mark.parametrize(
    ("name", "task", "modules", "has_positions"),
    [
        ("llama", None, {"q_proj", "k_proj", "v_proj"}, False),
        ("gpt2", None, {"c_attn"}, True),
        ("bert", CLASSES, {"query", "key", "value"}, True),
        ("roberta", CLASSES, {"query", "key", "value"}, True),
    ],
)
def test_the_first_modules_and_whether_places_matter(request, name, task, modules, has_positions):
    model, targets = adapted(request.getfixturevalue(name), task)
    layer = find_first_layer(model, targets)
    assert {module.rpartition(".")[2] for module in layer.modules} == modules
    assert all(".0." in module for module in layer.modules)
    assert layer.has_positions is has_positions


def test_behind_attention_tokens_are_mixed(llama):
    model, targets = adapted(llama, wanted=("o_proj", "up_proj"))
    assert find_first_layer(model, targets) is None


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_inputs_of_single_tokens_are_those_in_a_text(request, name):
    model, targets = adapted(request.getfixturevalue(name))
    layer = find_first_layer(model, targets)
    n_positions = 4 if layer.has_positions else 1
    found = torch.cat([entered for _, entered in token_inputs(model, layer, range(64), n_positions)])
    assert found.shape == (64, n_positions, 16)
    seen = []
    handle = model.model.get_submodule(layer.modules[0]).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    text = [7, 33, 7, 12]
    model.logits({"input_ids": torch.tensor([text])})
    handle.remove()
    for place, token in enumerate(text):
        assert torch.allclose(found[token, place if layer.has_positions else 0], seen[0][0, place], atol=1e-6)


def test_the_hooks_are_gone_afterwards(llama):
    model, targets = adapted(llama)
    find_first_layer(model, targets)
    list(token_inputs(model, find_first_layer(model, targets), [1, 2], 1))
    assert not any(module._forward_pre_hooks for module in model.model.modules())
