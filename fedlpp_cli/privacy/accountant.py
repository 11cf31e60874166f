"""What steps of DP-SGD cost: epsilon at a delta, for adding or removing one example; or one client, round by round.

By the distribution of the privacy loss (PLD; Sommer et al. 2019, doi 10.2478/popets-2019-0029), composed numerically by
`dp-accounting` so that every approximation is on the safe side. Renyi-DP is looser and serves as a check; GDP's central
limit is no bound, and is not here.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from fedlpp_cli.errors import UsageError

# Steps of the grid on which the privacy loss lies. One that is too coarse says more than is true, a fine one is slow:
# 1e-4 is right for an epsilon between 1 and 50; below and above it follows what comes out.
_GRID: Final = 1e-4
_GRID_SMALL: Final = 1e-3
_GRID_LARGE: Final = 2e-6
_COARSER: Final = 10
# Beyond it numbers overflow, and nothing is protected anyway.
_BEYOND_MEANING: Final = 1e5
_SIGMA_DIGITS: Final = 4
# With enough noise epsilon is 0, which has no logarithm.
_NOTHING: Final = 1e-300


@dataclass(frozen=True, slots=True)
class Spending:
    """`n_steps` steps of the Gaussian mechanism.

    Its standard deviation is `noise_multiplier` times what one example can change, and each example is in a step with
    probability `sampling_rate`, independently of all others.
    """

    noise_multiplier: float
    sampling_rate: float
    n_steps: int


def epsilon_of(history: Iterable[Spending], delta: float, *, coarse: bool = False) -> float:
    """What all of it together costs at `delta`, by PLD; by Renyi-DP, which says more, where it is beyond all meaning.

    Args:
        history: in any order; equal settings count as one longer run.
        delta: the probability with which epsilon may not hold.
        coarse: ten times faster, and larger by less than 0.1 %.

    Raises:
        UsageError: dp-accounting is not installed.
    """
    total = _merged(history)
    if not total:
        return 0.0
    _accounting()
    return _epsilon_of(tuple(total), delta, coarse=coarse)


# A training asks for the same number before it, when its update is written, and when that is charged.
@lru_cache(maxsize=256)
def _epsilon_of(total: tuple[Spending, ...], delta: float, *, coarse: bool) -> float:
    relation = _accounting().NeighboringRelation.ADD_OR_REMOVE_ONE
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    rough = renyi_epsilon_of(total, delta)
    if rough > _BEYOND_MEANING:
        return rough
    grid = max(min(_GRID, _GRID_SMALL * rough), _GRID_LARGE * rough) * (_COARSER if coarse else 1)
    found: float = _compose(PLDAccountant(relation, value_discretization_interval=grid), total).get_epsilon(delta)
    return found


def renyi_epsilon_of(history: Iterable[Spending], delta: float) -> float:
    """As `epsilon_of`, by Renyi-DP (Mironov 2017, arXiv 1702.07476): never less."""
    total = _merged(history)
    if not total:
        return 0.0
    relation = _accounting().NeighboringRelation.ADD_OR_REMOVE_ONE
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

    found: float = _compose(RdpAccountant(neighboring_relation=relation), total).get_epsilon(delta)
    return found


def noise_multiplier_for(epsilon: float, delta: float, *, sampling_rate: float, n_steps: int) -> float:
    """The least noise multiplier, to 4 decimals, with which `n_steps` steps cost no more than `epsilon`.

    Raises:
        UsageError: dp-accounting is not installed.
    """

    def excess(sigma: float, cost: Callable[..., float] = epsilon_of, **options: Any) -> float:
        """How far the cost is above what it may be; on a scale on which it is nearly a line."""
        found = cost([Spending(sigma, sampling_rate, n_steps)], delta, **options)
        return math.log(max(found, _NOTHING) / epsilon)

    high = _root(partial(excess, cost=renyi_epsilon_of), 1.0)
    unit = 10.0**-_SIGMA_DIGITS
    sigma = math.ceil(_root(partial(excess, coarse=True), high) / unit) * unit
    while excess(sigma) > 0:
        sigma += unit
    while sigma > unit and excess(sigma - unit) <= 0:
        sigma -= unit
    return round(sigma, _SIGMA_DIGITS)


def _root(excess: Callable[[float], float], guess: float) -> float:
    """Where a falling function of the noise multiplier is zero, to half a digit of those that are kept."""
    low = high = guess
    while excess(high) > 0:
        low, high = high, 1.5 * high
    while low == high or excess(low) <= 0:
        low, high = low / 1.5, low
    from scipy.optimize import brentq

    found: float = brentq(excess, low, high, xtol=0.5 * 10.0**-_SIGMA_DIGITS)
    return found


def _merged(history: Iterable[Spending]) -> list[Spending]:
    """One for each setting, in a fixed order: equal histories give equal bits."""
    steps: Counter[tuple[float, float]] = Counter()
    for one in history:
        steps[one.noise_multiplier, one.sampling_rate] += one.n_steps
    return [Spending(*setting, n_steps) for setting, n_steps in sorted(steps.items()) if n_steps]


def _compose(accountant: Any, history: Iterable[Spending]) -> Any:
    from dp_accounting import dp_event

    for one in history:
        event: Any = dp_event.GaussianDpEvent(one.noise_multiplier)
        if one.sampling_rate < 1:
            event = dp_event.PoissonSampledDpEvent(one.sampling_rate, event)
        accountant.compose(event, one.n_steps)
    return accountant


def _accounting() -> Any:
    """`dp_accounting.privacy_accountant`, without its talk on stderr."""
    try:
        from absl import logging
        from dp_accounting import privacy_accountant
    except ImportError:
        raise UsageError(
            "differential privacy needs dp-accounting, which is not installed", hint="pip install 'fedlpp[dp]'"
        ) from None
    logging.set_verbosity(logging.ERROR)
    return privacy_accountant
