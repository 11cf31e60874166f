"""The levels that weights are rounded to.

NF-k (FedLPP, arXiv 2406.10976; at k = 4 the NF4 of QLoRA, arXiv 2305.14314): 2^(k-1) positive levels at normal
quantiles, 2^(k-1) - 1 negative ones, and 0, divided by the largest. Quantile points are taken in float32, as
bitsandbytes takes them, which makes the 4-bit table equal to its table bit for bit.
"""

from functools import cache
from statistics import NormalDist
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.records.specs import Bits

# The outermost quantile: the mean of 1 - 1/30 and 1 - 1/32 (QLoRA, section 3), to seven digits.
_OFFSET: Final = 0.9677083


@cache
def levels(bits: Bits) -> Tensor:
    """Ascending float32 levels in [-1, 1], 0 among them: `(3,)` for ternary, else `(2^bits,)`.

    Raises:
        ValueError: `bits` is "full", which has no levels.
    """
    if bits == "full":
        raise ValueError("full precision has no levels")
    if bits == "ternary":
        return torch.tensor([-1.0, 0.0, 1.0])
    n_positive = 2 ** (int(bits) - 1)
    values = [*_quantiles(n_positive), 0.0, *(-value for value in _quantiles(n_positive - 1))]
    table = torch.tensor(sorted(values), dtype=torch.float32)
    return table / table.max()


def _quantiles(count: int) -> list[float]:
    points = torch.linspace(_OFFSET, 0.5, count + 1, dtype=torch.float32)[:-1]
    return [NormalDist().inv_cdf(point) for point in points.tolist()]


@cache
def dynamic_map() -> Tensor:
    """The 256 levels for quantized scales: bitsandbytes' signed 8-bit dynamic map, `(256,)` float32 ascending.

    Seven decades, the fraction getting one bit finer in each (Dettmers 2015, arXiv 1511.04561).
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2.0
        for sign in (1, -1):
            values += (sign * 10.0 ** (decade - 6) * means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32)


def midpoints(table: Tensor) -> Tensor:
    """Where rounding changes from one level to the next, float32 `(len(table) - 1,)`."""
    return (table[:-1] + table[1:]) / 2
