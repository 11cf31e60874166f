"""How far a number would move on other examples of the same kind: the percentile bootstrap (Efron 1979).

Examples are drawn with replacement; several models are looked at on the same draws, so that a difference between them
has the interval of a paired comparison.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Final, TypeVar

import numpy as np

from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.randomness import numpy_draws
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.rounding import six_digits

N_RESAMPLES: Final = 1000
NameT = TypeVar("NameT", bound=Hashable)
_TAIL: Final = 2.5  # per cent on each side of a 95 % interval


def resamples(n_examples: int, n_resamples: int = N_RESAMPLES) -> Iterator[Array]:
    """How often each example was drawn, int64 `(n_examples,)`: the same draws for every model on the same data."""
    draws = numpy_draws("bootstrap", n_examples)
    for _ in range(n_resamples):
        yield np.bincount(draws.randint(0, n_examples, n_examples), minlength=n_examples)


def interval_of(
    statistic: Callable[[Array], float], n_examples: int, n_resamples: int = N_RESAMPLES
) -> Interval | None:
    """The 95 % interval of a number that is made of examples.

    Args:
        statistic: the number, given how often each example counts.
        n_examples: how many there are.
        n_resamples: how often to draw.

    Returns:
        None for one example, which says nothing about others; where `statistic` is not finite on some draws, those are
        left out, and None where on more than one in twenty.
    """
    return intervals_of(lambda counts: {"": statistic(counts)}, n_examples, n_resamples).get("")


def intervals_of(
    statistics: Callable[[Array], Mapping[NameT, float]], n_examples: int, n_resamples: int = N_RESAMPLES
) -> dict[NameT, Interval]:
    """As `interval_of`, of many numbers on the same draws, each under its name; those without an interval are left out.

    Args:
        statistics: the numbers by name, always the same names, given how often each example counts.
        n_examples: how many there are.
        n_resamples: how often to draw.
    """
    if n_examples < 2:
        return {}
    drawn = [statistics(counts) for counts in resamples(n_examples, n_resamples)]
    found: dict[NameT, Interval] = {}
    for name in drawn[0]:
        values = np.array([one[name] for one in drawn])
        values = values[np.isfinite(values)]
        if len(values) >= 0.95 * n_resamples:
            low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
            found[name] = Interval(low=float(low), high=float(high))
    return found


def rounded_interval(interval: Interval) -> Interval:
    """With six digits, as everything in a report."""
    return Interval(low=six_digits(interval.low), high=six_digits(interval.high))
