"""The mean of updates whose clients did not see everything.

v_k: 1 where client k got a row and 0 where it did not; w_k: its weight; d_k: its update, after clipping. What it says
of rows that it did not get is not looked at.

aware      sum of w_k v_k d_k / sum of w_k v_k, over s: the mean over those who got the row, 0 where nobody did
unaware    sum of w_k v_k d_k: a row that half of the clients got moves half as far (FedQSN's own, arXiv 2508.18911)

s is what the proxy's rows were multiplied with, 1 without scaling, and d_k is a change of s theta: theta that moves by
d_k / s gives, under the same mask, what the client trained. Over all masks a client has a row with probability q, and
s = 1 / q. So both means have the expectation q d: with it theta stays the expectation of what clients trained, as it
is of the proxies that they started at. Without scaling "aware" has the expectation d.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.masks import Rows, masked_components, read_rows
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.errors import UsageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.specs import AggregateSpec

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sight:
    """Who got what: for each client, by factor B, which of its rows. `shapes`: the master's.

    `scaling`: whether what is left of n rows, m of them, was multiplied with n / m.
    """

    rows: Sequence[Mapping[str, Rows]]
    shapes: Mapping[str, Shape]
    scaling: bool

    def hide(self, client: int, component: str, start: int, values: Array) -> None:
        """Set to zero what that client did not get.

        Args:
            client: its number in the round.
            component: which one.
            start: where `values` begins in it.
            values: float32 `(n,)`, written.
        """
        rows = self.rows[client].get(component)
        if rows is not None:
            values[~self._spread(rows, component, start, len(values))] = 0.0

    def factors(self, weights: Sequence[float]) -> "RowFactors":
        """What each row of the weighted sum is multiplied with, so that it is the mean "aware"."""
        found = {}
        for name in self.rows[0]:
            seen = np.zeros(self.shapes[name][0])
            for weight, rows in zip(weights, self.rows, strict=True):
                seen += weight * rows[name]
            everybody = np.all([rows[name] for rows in self.rows], axis=0)
            mean = np.where(everybody, 1.0, np.divide(1.0, seen, out=np.zeros_like(seen), where=seen > 0))
            # Equal shares: every client has as many rows of a layer.
            found[name] = mean * self.rows[0][name].mean() if self.scaling else mean
        return RowFactors(found, self)

    def _spread(self, rows: Array, component: str, start: int, n_values: int) -> Array:
        """A number for each row as a number for each value."""
        return rows[np.arange(start, start + n_values) // self.shapes[component][1]]


@dataclass(frozen=True, slots=True)
class RowFactors:
    """By factor B a factor for each row, float64 `(out_features,)`."""

    factors: Mapping[str, Array]
    sight: Sight

    def multiply(self, component: str, start: int, values: Array) -> None:
        """Multiply `values` float64 `(n,)`, which begin at `start` of the component, in place."""
        factors = self.factors.get(component)
        if factors is not None:
            values *= self.sight._spread(factors, component, start, len(values))  # noqa: SLF001


def sight_of(received: Sequence[Received], shapes: Mapping[str, Shape]) -> Sight | None:
    """Who got what, by the proxies in their packages; None in a round without masks.

    Raises:
        ArtifactError: as `read_rows`.
    """
    mask = received[0].proxy.header.spec.mask
    return None if mask is None else Sight([_rows_of(one) for one in received], shapes, mask.scaling)


def check_mask_options(spec: AggregateSpec, *, masked: bool) -> None:
    """Refuse what masks do not go with.

    Raises:
        UsageError: saying why.
    """
    if not masked:
        return
    if spec.rule != "mean":
        raise UsageError(
            f"--rule {spec.rule}: it compares whole updates, or takes values in order, and masks hide parts of each",
            hint="--rule mean, with --clip-norm or --clip-to-median",
        )
    if spec.combine != "factors":
        raise UsageError(f"--combine {spec.combine}: a product of masked factors is no term of the mean of products")
    if spec.update_rule != 1:
        raise UsageError(
            f"--update-rule {spec.update_rule}: it drops what the proxy has not, and masks hide rows",
            hint="--update-rule 1",
        )
    if spec.client_noise_multiplier is not None:
        raise UsageError(
            "--client-noise-multiplier: noise would move rows that nobody got, and the mean's weights vary"
        )
    if spec.max_share < 1 and spec.mask_mean == "aware":
        raise UsageError(
            f"--max-share {spec.max_share:g}: a row that one client got is moved by that client alone",
            hint="--mask-mean unaware",
        )


def _rows_of(one: Received) -> dict[str, Rows]:
    found = {}
    for name in masked_components(one.started_shapes):
        rows = read_rows(one.proxy, name)
        found[name] = np.ones(one.started_shapes[name][0], np.bool_) if rows is None else rows
    return found
