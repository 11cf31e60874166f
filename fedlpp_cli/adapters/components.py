"""The tensors of an adapter, by name.

A component is `<module>.lora_A` `(rank, in_features)`, `<module>.lora_B` `(out_features, rank)`, or, for a module
that is trained whole, its parameter `<module>.<parameter>`. Module names are those of the transformers model, so a
component's name says where in the base it belongs. All are float32 in a master and in an update.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.artifact.tensor_header import TensorInfo
from fedlpp_cli.errors import LineageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.randomness import generator

FACTOR_A: Final = "lora_A"
FACTOR_B: Final = "lora_B"
_HEAD_STD: Final = 0.02


def factor_a(module: str) -> str:
    """Name of the factor next to the input."""
    return f"{module}.{FACTOR_A}"


def factor_b(module: str) -> str:
    """Name of the factor next to the output."""
    return f"{module}.{FACTOR_B}"


def module_of(component: str) -> str:
    """The module a component belongs to."""
    return component.rpartition(".")[0]


def initial_value(component: str, shape: Shape, *, seed: int) -> Tensor:
    """The value of a component before any training, float32; equal names and seeds give equal values.

    A uniform in +-1 / sqrt(in_features), which is Kaiming's rule as LoRA uses it; B zero, so that the adapted
    model starts as the base. A new head: normal with standard deviation 0.02, its norms 1, its biases 0.
    """
    factor = component.rpartition(".")[2]
    if factor == FACTOR_B:
        return torch.zeros(shape)
    random = generator(seed, "initial", component)
    if factor == FACTOR_A:
        bound = 1.0 / math.sqrt(shape[1])
        return torch.empty(shape).uniform_(-bound, bound, generator=random)
    if len(shape) >= 2:
        return torch.empty(shape).normal_(0.0, _HEAD_STD, generator=random)
    return torch.ones(shape) if factor == "weight" else torch.zeros(shape)


def check_same_layout(found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo], *, source: str) -> None:
    """Refuse tensors that are not exactly the expected ones, by name, dtype and shape.

    Raises:
        LineageError: naming the first difference.
    """
    for name in sorted(set(found) | set(expected)):
        if name not in found:
            raise LineageError(f"{source}: tensor {name!r} is missing")
        if name not in expected:
            raise LineageError(f"{source}: tensor {name!r} is not part of this federation's adapter")
        ours, theirs = (expected[name].dtype, expected[name].shape), (found[name].dtype, found[name].shape)
        if ours != theirs:
            raise LineageError(f"{source}: tensor {name!r} is {_spell(theirs)}, {_spell(ours)} is needed")


def _spell(kind: tuple[str, Shape]) -> str:
    return f"{kind[0]} {list(kind[1])}"
