"""Compiled loops for what bitsandbytes keeps beside its codes: int8 rows (LLM.int8), and scales of scales (QLoRA).

Dettmers et al. 2022 (arXiv 2208.07339), and 2023 (arXiv 2305.14314, section 3). Patterns and kinds are those of
`kernels.py`.
"""

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.quantization.kernels import compiled, load_block
from fedlpp_cli.quantization.layout import SCALES_BLOCK
from fedlpp_cli.quantization.levels import dynamic_values, midpoint_values

Array = NDArray[Any]

_TINY: Final = np.float32(1e-38)
_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)
_INFINITY: Final = np.uint32(0x7F800000)
_LARGEST_HALF: Final = np.float32(65504)
_SMALLEST_NORMAL_HALF: Final = np.float32(2.0**-14)
# In [0.5, 1) float32 numbers lie as far apart as float16's subnormal ones.
_SUBNORMAL_STEP: Final = np.float32(0.5)
# Cells of `_log_grid`: 128 in each octave from 2^-24 on.
_CELL_BITS: Final = 16
_FIRST_CELL: Final = (127 - 24) << 7
_N_CELLS: Final = 24 * 128 + 1


@compiled
def quantize_rows(source: Array, kind: int, n_columns: int, codes: Array, scales: Array) -> None:
    """LLM.int8: each value rounded to float16, then to the nearest of 255 even steps in its row.

    Args:
        source: bit patterns, uint32 or uint16 `(n_rows * n_columns,)`.
        kind: FLOAT32, BFLOAT16 or FLOAT16.
        n_columns: values in a row.
        codes: int8 `(n_rows * n_columns,)`, written.
        scales: float32 `(n_rows,)`, the rows' largest magnitudes, written; infinity where a row has a value that is
            not finite in float16.
    """
    bits = np.empty(n_columns, np.uint32)
    values = bits.view(np.float32)
    for row in range(scales.size):
        start = row * n_columns
        if load_block(source[start : start + n_columns], kind, bits, values) >= _INFINITY:
            scales[row] = np.inf
            continue
        largest = np.float32(0)
        for i in range(n_columns):
            values[i] = _half(values[i])
            largest = max(largest, abs(values[i]))
        scales[row] = largest if largest <= _LARGEST_HALF else np.float32(np.inf)
        # A reciprocal first, as torch divides a number by a tensor.
        factor = np.float32(1) / largest * np.float32(127) if largest > 0 else np.float32(0)
        for i in range(n_columns):
            codes[start + i] = np.int8(np.rint(values[i] * factor))


@compiled
def _half(value: np.float32) -> np.float32:
    """The value that float16 has for it, nearest even; beyond its range, something larger than it has."""
    magnitude = abs(value)
    if magnitude < _SMALLEST_NORMAL_HALF:
        rounded = (magnitude + _SUBNORMAL_STEP) - _SUBNORMAL_STEP
    else:
        # Veltkamp's split: the upper 11 of 24 bits.
        high = magnitude * np.float32(8193)
        rounded = high - (high - magnitude)
    return rounded if value >= 0 else -rounded


@compiled
def mean_of(scales: Array) -> np.float32:
    """The mean, summed in float64 from the first to the last."""
    total = 0.0
    for i in range(scales.size):
        total += np.float64(scales[i])
    return np.float32(total / scales.size)


@compiled
def _largest(scales: Array, offset: np.float32) -> np.float32:
    """The largest distance from `offset`."""
    largest = np.float32(0)
    for i in range(scales.size):
        largest = max(largest, abs(scales[i] - offset))
    return largest


@compiled
def quantize_scales(
    scales: Array, offset: np.float32, grid: tuple[Array, Array, Array, Array], codes: Array, maxima: Array
) -> None:
    """Codes in the dynamic map of `scales - offset`, in blocks of SCALES_BLOCK.

    Args:
        scales: float32 `(m,)`, finite.
        offset: their mean.
        grid: as `scale_grid` gives it.
        codes: uint8 `(m,)`, written.
        maxima: float32 `(ceil(m / SCALES_BLOCK),)`, written.
    """
    pattern = np.empty(1, np.uint32)
    value = pattern.view(np.float32)
    for number in range(maxima.size):
        start, stop = number * SCALES_BLOCK, min(scales.size, (number + 1) * SCALES_BLOCK)
        largest = _largest(scales[start:stop], offset)
        maxima[number] = largest
        inverse = np.float32(1) / max(largest, _TINY)
        for i in range(start, stop):
            value[0] = (scales[i] - offset) * inverse
            cell = min(max(int((pattern[0] & _MAGNITUDE) >> _CELL_BITS) - _FIRST_CELL, 0), _N_CELLS - 1)
            if value[0] > 0:
                codes[i] = grid[0][cell] + np.uint8(value[0] > grid[1][cell])
            else:
                codes[i] = grid[2][cell] - np.uint8(value[0] <= grid[3][cell])


@compiled
def look_up_scales(scales: Array, offset: np.float32, table: Array, codes: Array, maxima: Array) -> None:
    """As `quantize_scales`, by a table of even cells in place of the nearest level: what bitsandbytes does on a CPU.

    Args:
        scales: float32 `(m,)`, finite.
        offset: their mean.
        table: as `scale_table` gives it.
        codes: uint8 `(m,)`, written.
        maxima: float32 `(ceil(m / SCALES_BLOCK),)`, written.
    """
    for number in range(maxima.size):
        start, stop = number * SCALES_BLOCK, min(scales.size, (number + 1) * SCALES_BLOCK)
        largest = _largest(scales[start:stop], offset)
        maxima[number] = largest
        if largest == 0:
            codes[start:stop] = 0
            continue
        inverse = np.float32(1) / largest
        for i in range(start, stop):
            z = min(max((scales[i] - offset) * inverse, np.float32(-1)), np.float32(1))
            cell = np.float32((z + np.float32(1)) * np.float32(0.5)) * np.float32(65535) + np.float32(0.5)
            codes[i] = table[np.int32(cell)]


@cache
def scale_table() -> Array:
    """For `look_up_scales`: the code of each of 65,536 even steps from -1 to 1, uint8."""
    steps = np.float32(-1) + (np.float32(2) * np.arange(65536, dtype=np.float32)) / np.float32(65535)
    return np.searchsorted(midpoint_values(dynamic_values()), steps).astype(np.uint8)


@cache
def scale_grid() -> tuple[Array, Array, Array, Array]:
    """For `quantize_scales`: by cell of |z|, the first code and the midpoint in it, above zero and below.

    Above zero a code grows by one beyond the midpoint; at or below zero it falls by one at the midpoint. That no cell
    holds two midpoints is checked here.
    """
    found = midpoint_values(dynamic_values())
    n_below = int((found <= 0).sum())
    rising, falling = found[n_below:], found[:n_below][::-1]
    below, edges = _half_grid(rising)
    above, floors = _half_grid(-falling)
    return (
        (n_below + below).astype(np.uint8), edges,
        (n_below - above).astype(np.uint8), np.where(np.isinf(floors), -np.inf, -floors).astype(np.float32),
    )  # fmt: skip


def _half_grid(edges_found: Array) -> tuple[Array, Array]:
    """How many of the ascending positive midpoints lie in cells before, and the one in the cell or infinity."""
    patterns = np.ascontiguousarray(edges_found, np.float32).view(np.uint32).astype(np.int64)
    cells = np.clip((patterns >> _CELL_BITS) - _FIRST_CELL, 0, _N_CELLS - 1)
    if len(np.unique(cells)) != len(cells):
        raise ValueError(f"{_N_CELLS} cells are too few for {len(cells)} midpoints")
    edges = np.full(_N_CELLS, np.inf, np.float32)
    edges[cells] = edges_found
    return np.searchsorted(cells, np.arange(_N_CELLS)), edges
