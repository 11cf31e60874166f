"""An adapter of a lower rank: the first rows of each A and the first columns of each B (HetLoRA, EMNLP 2024).

The scaling `s` stays what it is, so that an adapter of a lower rank is the sum of the first terms of the product
`s B A`. What is trained whole stays whole. Loads no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fedlpp_cli.adapters.components import factor_a, factor_b, module_of
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.specs import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor


def lora_of_rank(lora: LoraSpec, rank: int) -> LoraSpec:
    """The same adapter with another rank, its alpha such that the scaling stays."""
    if rank == lora.rank:
        return lora
    return replace(lora, rank=rank, alpha=lora.scaling * (rank**0.5 if lora.use_rslora else rank))


def shape_of_rank(component: str, shape: Shape, rank: int) -> Shape:
    """Shape of a component in an adapter of that rank."""
    module = module_of(component)
    if component == factor_a(module):
        return (rank, shape[1])
    return (shape[0], rank) if component == factor_b(module) else shape


def shapes_of_rank(shapes: Mapping[str, Shape], rank: int) -> dict[str, Shape]:
    """Component to shape in an adapter of that rank."""
    return {name: shape_of_rank(name, shape, rank) for name, shape in shapes.items()}


def first_terms(component: str, value: "Tensor", rank: int) -> "Tensor":
    """What of a component is in an adapter of that rank, contiguous; of a head all of it."""
    shape = shape_of_rank(component, tuple(value.shape), rank)
    return value if shape == tuple(value.shape) else value[tuple(slice(size) for size in shape)].contiguous()
