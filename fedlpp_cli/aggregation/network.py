"""Which rows to compare so that columns end up sorted: Batcher's merge exchange (Knuth 1998, section 5.2.2, M)."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Rows that `sorting.py` keeps in registers.
BLOCK: Final = 8


def merges(n_rows: int, low: int, high: int) -> NDArray[Any]:
    """`exchanges` of sorted blocks in place of rows; `low` and `high` are rows."""
    return exchanges(-(-n_rows // BLOCK), low // BLOCK, high // BLOCK)


@cache
def exchanges(n_rows: int, low: int, high: int) -> NDArray[Any]:
    """Pairs of rows int64 `(m, 2)`: the smaller values go to the first, one pair after the other.

    After them the rows from `low` to `high` hold what a full sort would put there.
    """
    needed = set(range(low, high + 1))
    kept = []
    for pair in reversed(list(_merge_exchange(n_rows))):
        if needed.intersection(pair):
            needed.update(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.int64).reshape(-1, 2)


def _merge_exchange(n_rows: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(n_rows - 1, 1).bit_length() - 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(n_rows - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
