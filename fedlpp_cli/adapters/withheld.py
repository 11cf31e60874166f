"""What a master knows beyond the factors that clients get: of a module a second pair, which never leaves its owner.

The weight of such a module is `W + s (B A + withheld_B withheld_A)`. `<module>.withheld_A` is `(w, in_features)`,
`<module>.withheld_B` `(out_features, w)`, and the header says w for each module. They are no components: nothing that
rounds, packs or sends an adapter sees them. Loads no torch until values are read.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.adapters.ranks import shape_of_rank
from fedlpp_cli.quantization.layout import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from fedlpp_cli.artifact.tensor_file import TensorFile
    from fedlpp_cli.records.headers import MasterHeader

_WITHHELD_A: Final = "withheld_A"
_WITHHELD_B: Final = "withheld_B"


def withheld_a(module: str) -> str:
    """Name of the withheld factor next to the input."""
    return f"{module}.{_WITHHELD_A}"


def withheld_b(module: str) -> str:
    """Name of the withheld factor next to the output."""
    return f"{module}.{_WITHHELD_B}"


def is_withheld(name: str) -> bool:
    """Whether a tensor in a master is one of them."""
    return name.rpartition(".")[2] in {_WITHHELD_A, _WITHHELD_B}


def withheld_shapes(shapes: Mapping[str, Shape], ranks: Mapping[str, int]) -> dict[str, Shape]:
    """Name to shape of the withheld tensors.

    Args:
        shapes: component to shape.
        ranks: module to rank of its withheld pair; a module without factors has none.
    """
    found: dict[str, Shape] = {}
    for module, rank in ranks.items():
        a, b = factor_a(module), factor_b(module)
        if a in shapes and b in shapes:
            found[withheld_a(module)] = shape_of_rank(a, shapes[a], rank)
            found[withheld_b(module)] = shape_of_rank(b, shapes[b], rank)
    return found


def owners_values(master: "TensorFile[MasterHeader]", components: Mapping[str, Shape]) -> "dict[str, Tensor]":
    """Every component, float32, with the withheld pairs joined to the factors: what the owner's model computes with.

    Factors of a module with a withheld pair have its rank more than the others; the scaling is the adapter's.
    """
    import torch

    values = {name: master.read(name) for name in components}
    for module in master.header.spec.withheld:
        a, b = factor_a(module), factor_b(module)
        values[a] = torch.cat([values[a], master.read(withheld_a(module))])
        values[b] = torch.cat([values[b], master.read(withheld_b(module))], dim=1)
    return values


def of_one_rank(values: "Mapping[str, Tensor]", rank: int) -> "dict[str, Tensor]":
    """The same model with factors of one rank, not below any of theirs: they are filled up with zeros."""
    from torch.nn.functional import pad

    filled = dict(values)
    for module in factor_modules(values):
        a, b = factor_a(module), factor_b(module)
        missing = rank - len(values[a])
        filled[a], filled[b] = pad(values[a], (0, 0, 0, missing)), pad(values[b], (0, missing))
    return filled
