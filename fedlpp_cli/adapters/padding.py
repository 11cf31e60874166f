"""A range of an update's component, at its place in a component of a higher rank: what the update has not is zero.

A component that lies in another one fills its first rows (A), or the first columns of every row (B).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.windows import WINDOW_UNIT, read_window
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import UpdateHeader

Array = NDArray[Any]


def read_padded(
    update: TensorFile[UpdateHeader],
    component: str,
    shapes: tuple[Shape, Shape],
    start: int,
    out: Array,
    *,
    compiled: bool,
) -> None:
    """Fill `out` with the values of the padded component from `start` on.

    Args:
        update: its layout has been checked.
        component: its name.
        shapes: the component's in the update, and the one that it is filled up to.
        start: a multiple of WINDOW_UNIT, of the padded component as `out` is.
        out: float32, contiguous. It ends with the padded component or before a multiple of WINDOW_UNIT.
        compiled: as `read_window`.

    Raises:
        NotFiniteError, ArtifactError: as `read_window`.
    """
    own, padded = shapes
    if own == padded:
        read_window(update, component, start, out, compiled=compiled)
    elif own[1] == padded[1]:
        there = min(max(0, math.prod(own) - start), len(out))
        out[there:] = 0.0
        if there:
            read_window(update, component, start, out[:there], compiled=compiled)
    else:
        _read_columns(update, component, own, padded[1], start, out, compiled=compiled)


def _read_columns(
    update: TensorFile[UpdateHeader],
    component: str,
    own: Shape,
    width: int,
    start: int,
    out: Array,
    *,
    compiled: bool,
) -> None:
    """Every row that `out` touches is read whole, `own[1]` values of it, and put into rows of `width`."""
    n_rows, own_width = own
    stop = start + len(out)
    first, last = start // width, -(-stop // width)
    own_start = first * own_width // WINDOW_UNIT * WINDOW_UNIT
    own_stop = min(n_rows * own_width, -(-last * own_width // WINDOW_UNIT) * WINDOW_UNIT)
    values = np.empty(own_stop - own_start, np.float32)
    read_window(update, component, own_start, values, compiled=compiled)
    rows = np.zeros((last - first, width), np.float32)
    rows[:, :own_width] = values[first * own_width - own_start : last * own_width - own_start].reshape(-1, own_width)
    out[:] = rows.reshape(-1)[start - first * width : stop - first * width]
