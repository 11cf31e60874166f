"""What one training proves about its epsilon: a lower bound, from canaries that coins put in or left out.

With n fair coins, of which somebody who sees the outcome guesses some, an (epsilon, delta) private training lets at
most Binomial(guesses, e^epsilon / (1 + e^epsilon)) of them be right, but for delta's part (Steinke, Nasr and Jagielski
2023, "Privacy auditing with one training run", arXiv 2305.08846, theorem 5.2 and appendix D). An epsilon under which so
many right guesses would be rarer than one in twenty is refuted.
"""

import math
from typing import Final

import numpy as np

_REFUTED: Final = 0.05
_HIGHEST: Final = 64.0  # beyond it e^-epsilon is below what float64 keeps beside 1


def epsilon_bound(n_coins: int, n_guesses: int, n_right: int, delta: float) -> float:
    """The largest epsilon that is refuted at 95 % confidence; 0 where none is.

    Args:
        n_coins: canaries that could have been in.
        n_guesses: on how many of them a guess was made; fixed beforehand.
        n_right: right guesses.
        delta: of the promise.
    """
    low, high = 0.0, _HIGHEST
    if p_value(n_coins, n_guesses, n_right, low, delta) > _REFUTED:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        is_refuted = p_value(n_coins, n_guesses, n_right, middle, delta) <= _REFUTED
        low, high = (middle, high) if is_refuted else (low, middle)
    return low


def p_value(n_coins: int, n_guesses: int, n_right: int, epsilon: float, delta: float) -> float:
    """At most how likely it is that an (epsilon, delta) private training lets so many guesses be right."""
    chance = 1 / (1 + math.exp(-epsilon))
    mass = _binomial(n_guesses, chance)
    at_least = float(mass[n_right:].sum())
    # Of the outcomes below, the i nearest have some mass; delta's part is the largest mean of those.
    below = np.cumsum(mass[:n_right][::-1]) / np.arange(1, n_right + 1)
    return min(1.0, at_least + 2 * n_coins * delta * float(below.max(initial=0.0)))


def _binomial(n: int, chance: float) -> "np.ndarray":
    """The probability of 0, 1, ... n successes, float64 `(n + 1,)`."""
    if chance == 1.0:
        return np.asarray(np.eye(n + 1)[n])
    log_ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    k = np.arange(n + 1)
    mass: np.ndarray = np.exp(np.array(log_ways) + k * math.log(chance) + (n - k) * math.log1p(-chance))
    return mass
