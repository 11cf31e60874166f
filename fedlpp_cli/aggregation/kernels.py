"""The inner loops of a fold for the CPU, compiled: the bytes of `reference.py`, which says what each one does.

A product is rounded before it is added: nothing is fused, so that a sum is the same on every processor. Sums go over
lanes that are added up at the end of a tile, in an order that depends on places only, never on threads.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.aggregation.sorting import mean_of_sorted  # noqa: F401 - one of the loops of this module
from fedlpp_cli.quantization.kernels import compiled

LANES: Final = 64
TILE: Final = 8192

Array = NDArray[Any]


@compiled
def add_weighted(rows: Array, weights: Array, total: Array) -> None:
    """`reference.add_weighted`."""
    total[:] = 0.0
    for first in range(0, total.size, TILE):
        part = total[first : first + TILE]
        for k in range(rows.shape[0]):
            weight = weights[k]
            if weight != 0.0:
                values = rows[k, first : first + TILE]
                for i in range(part.size):
                    part[i] += weight * np.float64(values[i])


@compiled
def _add_up(lanes: Array) -> float:
    total = 0.0
    for i in range(lanes.size):
        total += lanes[i]
    return total


@compiled
def sum_products(left: Array, right: Array) -> float:
    """`reference.sum_products`."""
    total = 0.0
    lanes = np.empty(LANES)
    for first in range(0, left.size, TILE):
        stop = min(first + TILE, left.size)
        lanes[:] = 0.0
        for start in range(first, stop, LANES):
            x, y = left[start : min(start + LANES, stop)], right[start : min(start + LANES, stop)]
            if x.size == LANES:
                for i in range(LANES):
                    lanes[i] += np.float64(x[i]) * np.float64(y[i])
            else:
                for i in range(x.size):
                    lanes[i] += np.float64(x[i]) * np.float64(y[i])
        total += _add_up(lanes)
    return total


@compiled
def _tile_distance(left: Array, left_factor: float, right: Array, right_factor: float, lanes: Array) -> float:
    lanes[:] = 0.0
    for start in range(0, left.size, LANES):
        x, y = left[start : start + LANES], right[start : start + LANES]
        if x.size == LANES:
            for i in range(LANES):
                difference = left_factor * np.float64(x[i]) - right_factor * np.float64(y[i])
                lanes[i] += difference * difference
        else:
            for i in range(x.size):
                difference = left_factor * np.float64(x[i]) - right_factor * np.float64(y[i])
                lanes[i] += difference * difference
    return _add_up(lanes)


@compiled
def pair_distances(rows: Array, factors: Array, squared: Array) -> None:
    """`reference.pair_distances`."""
    squared[:] = 0.0
    lanes = np.empty(LANES)
    for first in range(0, rows.shape[1], TILE):
        for i in range(rows.shape[0]):
            x = rows[i, first : first + TILE]
            for j in range(i + 1, rows.shape[0]):
                y = rows[j, first : first + TILE]
                squared[i, j] += _tile_distance(x, factors[i], y, factors[j], lanes)
    for i in range(rows.shape[0]):
        for j in range(i + 1, rows.shape[0]):
            squared[j, i] = squared[i, j]


@compiled
def distances_to(rows: Array, factors: Array, center: Array, squared: Array) -> None:
    """`reference.distances_to`."""
    squared[:] = 0.0
    lanes = np.empty(LANES)
    for first in range(0, rows.shape[1], TILE):
        for k in range(rows.shape[0]):
            x, y = rows[k, first : first + TILE], center[first : first + TILE]
            squared[k] += _tile_distance(x, factors[k], y, 1.0, lanes)
