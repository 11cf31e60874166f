"""What a fold does with one window of all clients, in plain numpy: for small adapters, and to test the kernels against.

`rows` `(n_clients, n)` float32: a range of values, a row for each client. `factors` `(n_clients,)` float64 is what
each row is multiplied with. Sums are float64.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# As `kernels.py` has them; it is not imported here, where numba is not wanted.
LANES: Final = 64
TILE: Final = 8192

Array = NDArray[Any]


def add_weighted(rows: Array, weights: Array, total: Array) -> None:
    """`total` `(n,)` float64: the sum of weight times row, one row after the other, each product rounded first."""
    total[:] = 0.0
    for row, weight in zip(rows, weights, strict=True):
        if weight != 0.0:
            total += weight * row.astype(np.float64)


def sum_products(left: Array, right: Array) -> float:
    """The sum of `left * right`, both `(n,)`: in tiles of TILE values, each in LANES lanes."""
    return _sum_of_tiles(left.astype(np.float64) * right.astype(np.float64))


def pair_distances(rows: Array, factors: Array, squared: Array) -> None:
    """`squared` `(n_clients, n_clients)`: squared distances between rows."""
    scaled = rows.astype(np.float64) * factors[:, None]
    for i in range(len(rows)):
        squared[i, i] = 0.0
        for j in range(i + 1, len(rows)):
            squared[i, j] = squared[j, i] = _sum_of_tiles(np.square(scaled[i] - scaled[j]))


def distances_to(rows: Array, factors: Array, center: Array, squared: Array) -> None:
    """`squared` `(n_clients,)`: squared distances of the rows to `center` `(n,)` float64."""
    for k, (row, factor) in enumerate(zip(rows, factors, strict=True)):
        squared[k] = _sum_of_tiles(np.square(factor * row.astype(np.float64) - center))


def mean_of_sorted(rows: Array, merges: Array, low: int, high: int, out: Array) -> None:
    """`out` `(n,)` float64: of each column's values in rising order, the mean of number `low` to number `high`.

    `merges` are not needed here.
    """
    out[:] = 0.0
    for row in np.sort(rows, axis=0)[low : high + 1]:
        out += row
    out /= high + 1 - low


def _sum_of_tiles(products: Array) -> float:
    total = 0.0
    for first in range(0, len(products), TILE):
        tile = products[first : first + TILE]
        lanes = np.zeros(LANES)
        for start in range(0, len(tile), LANES):
            part = tile[start : start + LANES]
            lanes[: len(part)] += part
        # A running sum has one order; `sum` of numpy and of Python have theirs.
        total += float(np.cumsum(lanes)[-1])
    return total
