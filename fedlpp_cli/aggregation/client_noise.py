"""Noise that hides whether any one client took part: DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963).

x_k: the update of client k, cut to the L2 norm C, all components as one vector; z: `client_noise_multiplier`; m:
`expected_clients`. What comes out is

    (sum of x_k + N(0, (z C)^2)) / m

Adding or removing a client moves the sum by C at most. m is fixed: the mean over those who came would also move in its
other terms.

With `clip_quantile` q C moves from round to round (Andrew et al. 2021, arXiv 1905.03871). b_k: 1 if the norm of what
client k sent is at most C, else 0; s: the standard deviation of the count's noise; a: `clip_learning_rate`.

    b = 1/2 + (sum of (b_k - 1/2) + N(0, s^2)) / m
    C = C exp(-a (b - q))

C falls while more than a share q of the updates are within it, and grows while less are. A client moves the count by
1/2, which is why 1/2 is taken away from each: the sum of b_k itself would move by 1, and where m clients come both are
the same number. Updates get noise of (z^-2 - (2 s)^-2)^(-1/2) times C, so that both together cost what z says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from fedlpp_cli.errors import GateError
from fedlpp_cli.privacy.secret_stream import SecretStream
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.rounding import six_digits

# Drawn at once, so that a large component needs no second copy of itself.
_DRAWN: Final = 2**16
# Of a clipping norm; beyond it float32 ends, and so does all sense.
_MAX_LOG_NORM: Final = 60.0


@dataclass(frozen=True, slots=True)
class ClientNoise:
    """The noise of one round. `spec` asks for it; updates are cut to `clip_norm`."""

    spec: AggregateSpec
    clip_norm: float
    stream: SecretStream

    @property
    def n_expected(self) -> int:
        """What sums are divided by."""
        return self.spec.expected_clients or 1

    @property
    def stddev(self) -> float:
        """Of the noise on each value of what comes out, which has been divided by `n_expected`."""
        return update_noise_multiplier(self.spec) * self.clip_norm / self.n_expected

    def add_to(self, component: str, values: NDArray[Any]) -> None:
        """Add a component's noise to its float64 values, in place."""
        flat = values.reshape(-1)
        for start in range(0, len(flat), _DRAWN):
            piece = flat[start : start + _DRAWN]
            piece += self.stddev * self.stream.gaussians(len(piece), "update", component, start)

    def next_clip_norm(self, norms: Sequence[float]) -> float | None:
        """What the next round cuts to; None where that does not move.

        Args:
            norms: of the updates, before clipping.

        Raises:
            GateError: it would be beyond all numbers.
        """
        if self.spec.clip_quantile is None:
            return None
        centered = sum((norm <= self.clip_norm) - 0.5 for norm in norms)
        noise = self.spec.count_stddev * float(self.stream.gaussians(1, "count")[0])
        below = 0.5 + (centered + noise) / self.n_expected
        log_norm = math.log(self.clip_norm) - self.spec.clip_learning_rate * (below - self.spec.clip_quantile)
        if abs(log_norm) > _MAX_LOG_NORM:
            raise GateError(
                f"--clip-quantile: the clipping norm would be exp({log_norm:.4g})",
                hint="a smaller --clip-learning-rate or --clipped-count-stddev",
            )
        # Whoever computes it again on another machine gets this number too.
        return six_digits(math.exp(log_norm))


def update_noise_multiplier(spec: AggregateSpec) -> float:
    """What is left of the noise multiplier for the updates, where norms are counted too; never below it."""
    sigma = spec.client_noise_multiplier or 0.0
    if spec.clip_quantile is None:
        return sigma
    return float((sigma**-2 - (2 * spec.count_stddev) ** -2) ** -0.5)
