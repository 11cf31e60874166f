"""Scales that lose least: a compiled search over shares of each block's largest weight."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.quantization.kernels import compiled

Array = NDArray[Any]

_TINY: Final = np.float32(1e-38)


@compiled
def fit_scales(values: Array, block: int, shares: Array, levels: Array, midpoints: Array, scales: Array) -> None:
    """For each block the share of its largest magnitude that gives the least squared error with the nearest levels.

    Sums run in float64 from the first value to the last; of equal errors the first share counts.

    Args:
        values: float32 `(n,)`, finite.
        block: values that share a scale.
        shares: float32, the largest first.
        levels: float32, ascending.
        midpoints: float32, between them.
        scales: float32 `(ceil(n / block),)`, written.
    """
    codes = np.empty(block, np.uint8)
    for number in range(scales.size):
        part = values[number * block : min(values.size, (number + 1) * block)]
        largest = np.float32(0)
        for i in range(part.size):
            largest = max(largest, abs(part[i]))
        least = np.inf
        for k in range(shares.size):
            scale = largest * shares[k]
            inverse = np.float32(1) / max(scale, _TINY)
            error = 0.0
            codes[: part.size] = 0
            for j in range(midpoints.size):
                for i in range(part.size):
                    codes[i] += part[i] * inverse > midpoints[j]
            for i in range(part.size):
                off = np.float64(levels[codes[i]] * scale - part[i])
                error += off * off
            if error < least:
                least = error
                scales[number] = scale
