"""How much of what the owner's model knows an attacker's model has: the recovery ratio.

rho = (M(attacker) - M(base)) / (M(central) - M(base)), with M the headline score, more being better. 0: no better than
the base that everybody has; 1: as good as the owner's model.
"""

from dataclasses import dataclass
from typing import Final

from fedlpp_cli.evaluation.bootstrap import intervals_of
from fedlpp_cli.evaluation.scored import Array, Scored, goodness
from fedlpp_cli.records.reports import Interval

# Below this, central is not told from base, and a ratio to the difference would be noise.
_LEAST_GAIN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Recovery:
    """`rho` is None where central is not told from base on these examples, whose `gain` has 0 in its interval."""

    rho: float | None
    interval: Interval | None
    gain: float
    gain_interval: Interval | None


def recovery(attacker: Scored, *, base: Scored, central: Scored) -> Recovery:
    """The recovery ratio, with a paired bootstrap interval.

    Args:
        attacker: what the attacker's model got.
        base: what the model without adapter got, on the same examples.
        central: what the owner's model got on them.
    """

    def numbers(counts: Array | None) -> dict[str, float]:
        start = goodness(base, counts)
        gain = goodness(central, counts) - start
        rho = (goodness(attacker, counts) - start) / gain if abs(gain) > _LEAST_GAIN else float("nan")
        return {"gain": gain, "rho": rho}

    found, intervals = numbers(None), intervals_of(numbers, len(base))
    gain, gain_interval = found["gain"], intervals.get("gain")
    is_told = gain > _LEAST_GAIN and (gain_interval is None or gain_interval.low > 0)
    if not is_told:
        return Recovery(None, None, gain, gain_interval)
    return Recovery(found["rho"], intervals.get("rho"), gain, gain_interval)
