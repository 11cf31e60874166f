"""The norm of an update, and what its values alone tell against it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from fedlpp_cli.aggregation.stack import Stack, Update, Window
from fedlpp_cli.errors import NormError, NotFiniteError, UnchangedError
from fedlpp_cli.quantization.layout import Shape

Array = NDArray[Any]


def update_norm(update: Update, shapes: Mapping[str, Shape], max_update_norm: float | None) -> float:
    """L2 norm over all components, float64 inside.

    Args:
        update: its layout has been checked.
        shapes: component to shape.
        max_update_norm: the package's limit, None for none.

    Raises:
        NotFiniteError: a value or a scale that is not finite.
        UnchangedError: all zeros.
        NormError: a norm above the limit.
        ArtifactError: codes that no tensor gives.
    """
    squares = 0.0
    for name, found in _squared_norms(update, shapes):
        if not math.isfinite(found):
            raise NotFiniteError(f"{update.path}: tensor {name!r} has values that are not finite")
        squares += found
    norm = math.sqrt(squares)
    if norm == 0.0:
        raise UnchangedError(f"{update.path}: all values are zero, nothing was trained")
    if max_update_norm is not None and norm > max_update_norm:
        raise NormError(f"{update.path}: norm {norm:.4g}, the package allows {max_update_norm:.4g}")
    return norm


def _squared_norms(update: Update, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, float]]:
    """Component name and sum of its squares in float64, one after the other; infinite or NaN where a value is.

    Raises:
        NotFiniteError, ArtifactError: as `read_window`.
    """
    stack = Stack([update], shapes, threads=1)
    total = 0.0

    def work(window: Window, rows: Array) -> tuple[Window, float]:
        return window, stack.loops.sum_products(rows[0], rows[0])

    for window, squares in stack.run(work):
        total += squares
        if window.stop == window.n_values:
            yield window.component, total
            total = 0.0
