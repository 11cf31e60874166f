"""Attacks on the updates of a round: tensors in, tensors out, one component at a time.

x_i: what attacker i would honestly have sent. The attackers know every honest update of the round; mu and sigma are
their mean and standard deviation, value by value.

sign-flip   -scale x_i
gaussian    values from N(0, (scale r)^2), where r is the root mean square of the honest updates' values
alie        mu - z sigma (Baruch et al. 2019, arXiv 1902.06156), all attackers the same
ipm         -epsilon mu (Xie et al. 2019, arXiv 1903.03936), all attackers the same
boosted     scale x_i, where x_i was trained on poisoned data (Bagdasaryan et al. 2018, arXiv 1807.00459)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one component over the honest clients, float64 of its shape. `sigma` is of all of them, not of a sample."""

    mean: Tensor
    sigma: Tensor


def moments(values: Iterable[Tensor]) -> Moments:
    """Mean and deviation in one pass, in the order given (Welford 1962); three tensors are held, however many come.

    Args:
        values: a component of each honest update, float32, at least one.

    Raises:
        ValueError: none.
    """
    mean = squares = None
    count = 0
    for count, value in enumerate(values, start=1):
        wide = value.double()
        if mean is None or squares is None:
            mean, squares = torch.zeros_like(wide), torch.zeros_like(wide)
        before = wide - mean
        mean += before / count
        squares += before * (wide - mean)
    if mean is None or squares is None:
        raise ValueError("moments of no update")
    return Moments(mean, (squares / count).sqrt())


def boosted(own: Tensor, scale: float) -> Tensor:
    """`scale` times the attacker's own update, float32."""
    return (scale * own.double()).float()


def sign_flip(own: Tensor, scale: float) -> Tensor:
    """The other way, `scale` times as far, float32."""
    return boosted(own, -scale)


def gaussian(honest: Moments, scale: float, draws: torch.Generator) -> Tensor:
    """Noise of `scale` times the size of honest values, float32."""
    size = (honest.mean.square() + honest.sigma.square()).mean().sqrt()
    noise = torch.randn(honest.mean.shape, generator=draws, dtype=torch.float64)
    return (scale * size * noise).float()


def alie(honest: Moments, z: float) -> Tensor:
    """A little is enough: within the spread of the honest, float32."""
    return (honest.mean - z * honest.sigma).float()


def ipm(honest: Moments, epsilon: float) -> Tensor:
    """Inner product manipulation: against the mean of the honest, float32."""
    return (-epsilon * honest.mean).float()


def alie_z(n_clients: int, n_attackers: int) -> float:
    """How far from the mean colluders can go and still be nearer to it than some of the majority (arXiv 1902.06156).

    With s = floor(n / 2 + 1) - f honest clients on their side the colluders are the majority; z is the quantile of
    the normal distribution at (n - f - s) / (n - f). 0 where that is below the middle; where s would be less than 1
    they are the majority by themselves, and s is taken for 1.
    """
    n_honest = n_clients - n_attackers
    supporters = max(1, n_clients // 2 + 1 - n_attackers)
    share = (n_honest - supporters) / n_honest if n_honest else 0.0
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0
