"""The levels that weights are rounded to, as tensors; `levels.py` says which they are."""

from functools import cache

import torch
from torch import Tensor

from fedlpp_cli.quantization.layout import Table
from fedlpp_cli.quantization.levels import dynamic_values, level_values


@cache
def levels(table: Table) -> Tensor:
    """Ascending float32 levels in [-1, 1], 0 among them: `(3,)` for ternary, else `(2^k,)`, symmetric `(2^k + 1,)`.

    Raises:
        ValueError: "full", which has no levels.
    """
    return torch.tensor(level_values(table))


@cache
def dynamic_map() -> Tensor:
    """The 256 levels for quantized scales: bitsandbytes' signed 8-bit dynamic map, `(256,)` float32 ascending."""
    return torch.tensor(dynamic_values())


def midpoints(table: Tensor) -> Tensor:
    """Where rounding changes from one level to the next, float32 `(len(table) - 1,)`."""
    return (table[:-1] + table[1:]) / 2
