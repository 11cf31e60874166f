"""The levels that weights are rounded to, as arrays. Loads no torch; `codebooks.py` has the same as tensors.

NF-k (FedLPP, arXiv 2406.10976; at k = 4 the NF4 of QLoRA, arXiv 2305.14314): 2^(k-1) positive levels at normal
quantiles, 2^(k-1) - 1 negative ones, and 0, divided by the largest. Quantile points are taken in float32, as
bitsandbytes takes them, which makes the 4-bit table equal to its table bit for bit.

Symmetric-k (FedQSN, arXiv 2508.18911, its `code/adapter_utils.py`): the same positive levels, their negatives, and 0:
2^k + 1 of them.
"""

from functools import cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.quantization.layout import Table

Levels = NDArray[np.float32]

# The outermost quantile: the mean of 1 - 1/30 and 1 - 1/32 (QLoRA, section 3), to seven digits.
_OFFSET: Final = 0.9677083
# bitsandbytes' FP4 by code: a sign, two bits of exponent, one of mantissa.
_FP4: Final = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)


@cache
def level_values(table: Table) -> Levels:
    """Ascending float32 levels in [-1, 1], 0 among them: `(3,)` for ternary, else `(2^k,)`, symmetric `(2^k + 1,)`.

    Raises:
        ValueError: "full", which has no levels.
    """
    if table == "full":
        raise ValueError("full precision has no levels")
    if table == "ternary":
        return _frozen([-1.0, 0.0, 1.0])
    n_positive = 2 ** (int(table.removeprefix("symmetric-")) - 1)
    n_negative = n_positive if table.startswith("symmetric-") else n_positive - 1
    values = [*_quantiles(n_positive), 0.0, *(-value for value in _quantiles(n_negative))]
    ascending = np.array(sorted(values), np.float32)
    return _frozen(ascending / ascending.max())


@cache
def fp4_values() -> Levels:
    """The levels of FP4 as bitsandbytes has them, by code, `(16,)`: not ascending, and with two zeros."""
    return _frozen(np.array([*_FP4, *(-value for value in _FP4)], np.float32) / np.float32(max(_FP4)))


@cache
def dynamic_values() -> Levels:
    """The 256 levels for quantized scales: bitsandbytes' signed 8-bit dynamic map, `(256,)` float32 ascending.

    Seven decades, the fraction getting one bit finer in each (Dettmers 2015, arXiv 1511.04561).
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = _linspace(0.1, 1.0, 2**decade + 1)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        for sign in (1, -1):
            values += (np.float32(sign * 10.0 ** (decade - 6)) * means).tolist()
    return _frozen(sorted(values))


def midpoint_values(table: Levels) -> Levels:
    """Where rounding changes from one level to the next, float32 `(len(table) - 1,)`."""
    return (table[:-1] + table[1:]) / np.float32(2)


def _quantiles(count: int) -> list[float]:
    return [NormalDist().inv_cdf(point) for point in _linspace(_OFFSET, 0.5, count + 1)[:-1].tolist()]


def _linspace(start: float, stop: float, count: int) -> Levels:
    """Evenly spaced points as torch has them in float32: from both ends to the middle, products not rounded."""
    step = float((np.float32(stop) - np.float32(start)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    rising = float(np.float32(start)) + step * index
    falling = float(np.float32(stop)) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _frozen(values: Any) -> Levels:
    table = np.asarray(values, np.float32)
    table.flags.writeable = False
    return table
