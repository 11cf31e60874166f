"""The tensors of an adapter, by name.

A component is `<module>.lora_A` `(rank, in_features)`, `<module>.lora_B` `(out_features, rank)`, or, for a module
that is trained whole, its parameter `<module>.<parameter>`. Module names are those of the transformers model, so a
component's name says where in the base it belongs. All are float32 in a master. Loads no torch until values are drawn.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

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


def factor_modules(components: Iterable[str]) -> list[str]:
    """The modules that have factors, sorted."""
    return sorted({module_of(name) for name in components if name == factor_a(module_of(name))})


def initial_value(component: str, shape: Shape, *, seed: int) -> "Tensor":
    """The value of a component before any training, float32; equal names and seeds give equal values.

    A uniform in +-1 / sqrt(in_features), which is Kaiming's rule as LoRA uses it; B zero, so that the adapted
    model starts as the base. A new head: normal with standard deviation 0.02, its norms 1, its biases 0.
    """
    import torch

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
