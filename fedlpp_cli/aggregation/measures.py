"""What is asked of all updates together, each question a pass over their windows: distances, products, the fold itself.

`factors` clip: update k counts as factor times what it says.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.aggregation.masks import RowFactors
from fedlpp_cli.aggregation.network import merges
from fedlpp_cli.aggregation.rules import Plan
from fedlpp_cli.aggregation.stack import Stack, Window
from fedlpp_cli.quantization.layout import Shape

Array = NDArray[Any]


class StackMeasures:
    """The questions of `rules.Measures`; sums are float64, window by window."""

    def __init__(self, stack: Stack, factors: Sequence[float], norms: Sequence[float]) -> None:
        """`norms`: of the updates as they are, before clipping; with a reference behind them, its own is the last."""
        self._stack, self._norms = stack, norms
        self._factors = np.array(factors, np.float64)

    def pair_distances(self) -> Array:
        """Squared distances `(n, n)`."""
        n_clients = len(self._stack.updates)

        def work(_: Window, rows: Array) -> Array:
            squared = np.empty((n_clients, n_clients))
            self._stack.loops.pair_distances(rows, self._factors, squared)
            return squared

        return _add(self._stack.run(work), (n_clients, n_clients))

    def distances_to(self, weights: Sequence[float]) -> list[float]:
        """Distance of each update to the sum of weight times update."""
        n_clients = len(self._stack.updates)
        scaled = np.array(weights, np.float64) * self._factors

        def work(_: Window, rows: Array) -> Array:
            center, squared = np.empty(rows.shape[1]), np.empty(n_clients)
            self._stack.loops.add_weighted(rows, scaled, center)
            self._stack.loops.distances_to(rows, self._factors, center, squared)
            return squared

        return [math.sqrt(total) for total in _add(self._stack.run(work), (n_clients,))]

    def reference_cosines(self) -> tuple[list[float], float]:
        """Cosine of each update with the last one in the stack, and that one's norm; clipping changes neither."""
        loops = self._stack.loops

        def work(_: Window, rows: Array) -> Array:
            return np.array([loops.sum_products(row, rows[-1]) for row in rows[:-1]])

        products = _add(self._stack.run(work), (len(self._norms) - 1,))
        *norms, last = self._norms
        return [float(product) / (norm * last) for product, norm in zip(products, norms, strict=True)], last


class Folding:
    """A plan carried out; products and squares are summed up on the way.

    `products` `(n,)`: of each update, before clipping, with the result. `squares`: of the result.
    """

    def __init__(
        self, stack: Stack, factors: Sequence[float], plan: Plan, row_factors: RowFactors | None = None
    ) -> None:
        """`row_factors`: what rows of the sum are multiplied with, where not all clients got all."""
        self._stack, self._plan, self._row_factors = stack, plan, row_factors
        self._factors = np.array(factors, np.float64)
        self._weights = np.array(plan.weights, np.float64) * self._factors
        self._chosen = np.flatnonzero(np.array(plan.weights))
        self.products = np.zeros(len(stack.updates))
        self.squares = 0.0

    def results(self, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Array]]:
        """Component name and what its values fold to, float64 of its shape, one after the other.

        Raises:
            NotFiniteError, ArtifactError: as `read_window`.
        """
        # Threads write into the memory of the components that are under way, a range each.
        whole: dict[str, Array] = {}

        def windows() -> Iterator[Window]:
            for window in self._stack.windows():
                if not window.start:
                    whole[window.component] = np.empty(window.n_values)
                yield window

        def work(window: Window, rows: Array) -> tuple[Window, Array]:
            return window, self._fold(window, rows, whole[window.component][window.start : window.stop])

        for window, sums in self._stack.run(work, windows()):
            self.products += sums[:-1]
            self.squares += float(sums[-1])
            if window.stop == window.n_values:
                yield window.component, whole.pop(window.component).reshape(shapes[window.component])

    def _fold(self, window: Window, rows: Array, out: Array) -> Array:
        """Products of the rows with the result, which goes to `out`, and behind them its square."""
        loops, trimmed = self._stack.loops, self._plan.trimmed
        if trimmed is None:
            loops.add_weighted(rows, self._weights, out)
        else:
            n_chosen = len(self._chosen)
            low, high = trimmed, n_chosen - 1 - trimmed
            values = rows if n_chosen == len(rows) else rows[self._chosen]
            factors = self._factors[self._chosen]
            if (factors != 1).any():
                values = values.astype(np.float64) * factors[:, None]
            loops.mean_of_sorted(values, merges(n_chosen, low, high), low, high, out)
        if self._row_factors is not None:
            self._row_factors.multiply(window.component, window.start, out)
        return np.array([*(loops.sum_products(row, out) for row in rows), loops.sum_products(out, out)])


def _add(parts: Iterator[Array], shape: tuple[int, ...]) -> Array:
    """The sum, in the order in which they come."""
    total = np.zeros(shape)
    for part in parts:
        total += part
    return total
