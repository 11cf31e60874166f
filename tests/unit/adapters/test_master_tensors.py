"""What of a master's tensors is a component, and what a server optimizer's state."""

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge

from fedlpp_cli.adapters.master_tensors import components_of, goes_on, steps_after
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec

NAME = "model.layers.0.mlp.down_proj.lora_A"


@pytest.fixture
def plant(played, tmp_path):
    """A copy of a master with more tensors and another optimizer in its header."""

    def plant(optimizer, steps, change):
        spec = header_of(played.master(1)).spec
        spec = replace(spec, aggregate=AggregateSpec(server_optimizer=optimizer), optimizer_steps=steps)
        return reforge(
            played.master(1), tmp_path / f"{optimizer}.safetensors", kind=MasterHeader, change=change, spec=spec
        )

    return plant


def with_state(*moments):
    def change(tensors):
        return tensors | {f"{name}.{moment}": torch.ones_like(t) for name, t in tensors.items() for moment in moments}

    return change


def components(path):
    with TensorFile(path, MasterHeader) as file:
        return components_of(file)


def test_a_state_is_no_component(played, plant):
    expected = {name: tuple(tensor.shape) for name, tensor in read_all(played.master(1)).items()}
    assert components(played.master(1)) == expected
    assert components(plant("momentum", 3, with_state("momentum"))) == expected
    assert components(plant("yogi", 3, with_state("momentum", "second_moment"))) == expected


def test_a_parameter_that_is_called_so_is_one(plant):
    """What is left of the last point is no tensor, so it is a module."""
    found = components(plant("sgd", 0, lambda tensors: {**tensors, "head.momentum": torch.ones(3)}))
    assert found["head.momentum"] == (3,)


@pytest.mark.parametrize(
    ("optimizer", "steps", "change", "message"),
    [
        ("sgd", 0, with_state("momentum"), "is .*'F32', .*, the header announces none"),
        ("adam", 0, with_state("momentum", "second_moment"), "the header announces none"),
        ("adam", 1, with_state("momentum"), "second_moment' is missing, the header announces .*'F32'"),
        ("momentum", 1, with_state("momentum", "second_moment"), "second_moment' .* announces none"),
        ("momentum", 1, lambda t: {**with_state("momentum")(t), f"{NAME}.momentum": torch.ones(2)}, r"\(2,\)"),
        ("sgd", 0, lambda t: {**t, NAME: t[NAME].half()}, "lora_A' is .*'F16'"),
    ],
)
def test_a_state_that_the_header_does_not_announce_is_refused(plant, optimizer, steps, change, message):
    path = plant(optimizer, steps, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        components(path)
    assert str(path) in str(caught.value)


def test_steps_are_counted_and_start_over_with_another_optimizer(played):
    spec = header_of(played.master(1)).spec
    adam, yogi, sgd = (AggregateSpec(server_optimizer=name) for name in ("adam", "yogi", "sgd"))
    assert [steps_after(spec, one) for one in (adam, yogi, sgd)] == [1, 1, 0]
    after = replace(spec, aggregate=adam, optimizer_steps=4)
    assert [steps_after(after, one) for one in (adam, yogi, sgd)] == [5, 1, 0]
    assert [goes_on(after, one) for one in (adam, yogi, sgd)] == [True, False, False]
    tuned = AggregateSpec(server_optimizer="adam", beta1=0.5, tau=1e-2, server_learning_rate=0.1)
    assert steps_after(after, tuned) == 5
