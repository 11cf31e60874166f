"""The middle of each column's values in rising order, compiled: `reference.mean_of_sorted`.

Values lie in blocks of BLOCK rows, and the comparisons of a block stay in registers, for as many columns at once as a
register holds: a block is sorted by a network of 19 comparisons, two sorted ones are merged by Batcher's of 25. That
sorting networks work as well on sorted blocks, with merging in place of comparing, is Knuth 1998, section 5.3.4,
exercise 38: which blocks are merged is `network.exchanges` of their number.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.aggregation.network import BLOCK
from fedlpp_cli.quantization.kernels import compiled

# Columns at a time: a constant, from which the compiler knows that rows of a block do not overlap.
_N: Final = 256

Array = NDArray[Any]


@compiled
def mean_of_sorted(rows: Array, merges: Array, low: int, high: int, out: Array) -> None:
    """`reference.mean_of_sorted`."""
    n_rows = rows.shape[0]
    n_blocks = -(-n_rows // BLOCK)
    work = np.empty(n_blocks * BLOCK * _N, rows.dtype)
    # What is missing from the last block, and from the last columns, counts as infinite.
    work[:] = np.inf
    for first in range(0, out.size, _N):
        target = out[first : first + _N]
        for k in range(n_rows):
            source, place = rows[k, first : first + _N], work[k * _N : k * _N + target.size]
            for i in range(place.size):
                place[i] = source[i]
        for k in range(n_rows, n_blocks * BLOCK):
            place = work[k * _N : k * _N + _N]
            for i in range(_N):
                place[i] = np.inf
        for b in range(n_blocks):
            _sort(work[b * BLOCK * _N : (b + 1) * BLOCK * _N])
        for m in range(merges.shape[0]):
            left, right = merges[m, 0] * BLOCK * _N, merges[m, 1] * BLOCK * _N
            _merge(work[left : left + BLOCK * _N], work[right : right + BLOCK * _N])
        _add(work[low * _N : (high + 1) * _N], target)
        for i in range(target.size):
            target[i] /= np.float64(high + 1 - low)


@compiled
def _add(rows: Array, total: Array) -> None:
    """The sum of rows of _N values, one after the other, four on each way through `total`."""
    total[:] = 0.0
    n_fours = rows.size // (4 * _N) * 4 * _N
    for k in range(0, n_fours, 4 * _N):
        a, b, c, d = rows[k:], rows[k + _N :], rows[k + 2 * _N :], rows[k + 3 * _N :]
        for i in range(total.size):
            total[i] = total[i] + np.float64(a[i]) + np.float64(b[i]) + np.float64(c[i]) + np.float64(d[i])
    for k in range(n_fours, rows.size, _N):
        a = rows[k:]
        for i in range(total.size):
            total[i] += np.float64(a[i])


@compiled
def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    """The smaller value first; `min` and `max` would look for NaN too."""
    return b if b < a else a, a if b < a else b  # noqa: FURB136


# One line for comparisons that do not depend on each other.
# fmt: off
@compiled
def _sort(x: Array) -> None:
    """Sort the columns of a block."""
    n = _N
    for i in range(n):
        a, b, c, d = x[i], x[n + i], x[2 * n + i], x[3 * n + i]
        e, f, g, h = x[4 * n + i], x[5 * n + i], x[6 * n + i], x[7 * n + i]
        (a, c), (b, d), (e, g), (f, h) = _pair(a, c), _pair(b, d), _pair(e, g), _pair(f, h)
        (a, e), (b, f), (c, g), (d, h) = _pair(a, e), _pair(b, f), _pair(c, g), _pair(d, h)
        (a, b), (c, d), (e, f), (g, h) = _pair(a, b), _pair(c, d), _pair(e, f), _pair(g, h)
        (c, e), (d, f) = _pair(c, e), _pair(d, f)
        (b, e), (d, g) = _pair(b, e), _pair(d, g)
        (b, c), (d, e), (f, g) = _pair(b, c), _pair(d, e), _pair(f, g)
        x[i], x[n + i], x[2 * n + i], x[3 * n + i] = a, b, c, d
        x[4 * n + i], x[5 * n + i], x[6 * n + i], x[7 * n + i] = e, f, g, h


@compiled
def _merge(x: Array, y: Array) -> None:
    """Of two sorted blocks, the smaller halves of the columns to `x` and the larger ones to `y`, sorted."""
    n = _N
    for i in range(n):
        a, b, c, d = x[i], x[n + i], x[2 * n + i], x[3 * n + i]
        e, f, g, h = x[4 * n + i], x[5 * n + i], x[6 * n + i], x[7 * n + i]
        p, q, r, s = y[i], y[n + i], y[2 * n + i], y[3 * n + i]
        t, u, v, w = y[4 * n + i], y[5 * n + i], y[6 * n + i], y[7 * n + i]
        (a, p), (b, q), (c, r), (d, s) = _pair(a, p), _pair(b, q), _pair(c, r), _pair(d, s)
        (e, t), (f, u), (g, v), (h, w) = _pair(e, t), _pair(f, u), _pair(g, v), _pair(h, w)
        (e, p), (f, q), (g, r), (h, s) = _pair(e, p), _pair(f, q), _pair(g, r), _pair(h, s)
        (c, e), (d, f), (g, p), (h, q) = _pair(c, e), _pair(d, f), _pair(g, p), _pair(h, q)
        (r, t), (s, u) = _pair(r, t), _pair(s, u)
        (b, c), (d, e), (f, g), (h, p) = _pair(b, c), _pair(d, e), _pair(f, g), _pair(h, p)
        (q, r), (s, t), (u, v) = _pair(q, r), _pair(s, t), _pair(u, v)
        x[i], x[n + i], x[2 * n + i], x[3 * n + i] = a, b, c, d
        x[4 * n + i], x[5 * n + i], x[6 * n + i], x[7 * n + i] = e, f, g, h
        y[i], y[n + i], y[2 * n + i], y[3 * n + i] = p, q, r, s
        y[4 * n + i], y[5 * n + i], y[6 * n + i], y[7 * n + i] = t, u, v, w
