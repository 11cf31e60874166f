"""From values to places on paper: which ticks an axis has, and how a value is written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.reporting.figures import Axis, Unit

# Beyond it differences are no numbers any more. Nothing that is measured is near.
_LARGEST: Final = 1e300
_SMALLEST: Final = 1e-280
_UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_MINUS: Final = "−"  # noqa: RUF001  # the sign, as wide as a digit


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: `ticks` from its low end to its high one, and what is written at each."""

    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]
    label: str

    def place(self, value: float, start: float, stop: float) -> float:
        """Where a value is, if the axis goes from `start` to `stop`; beyond its ends, at them."""
        share = (_bounded(value) - self.low) / (self.high - self.low)
        return start + min(max(share, 0.0), 1.0) * (stop - start)


def scale_of(axis: Axis, values: Iterable[float], n_steps: int = 5) -> Scale:
    """An axis that has all values on it and ends at ticks.

    Args:
        axis: what it is; bytes are counted in the largest unit of which there is one.
        values: what has to be on it.
        n_steps: about how many steps it should have.
    """
    there = [_bounded(value) for value in values] or [0.0]
    low, high = min(there), max(there)
    if axis.from_zero or axis.unit == "bytes":
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if size < _SMALLEST:
        low, high = 0.0, 1.0
    elif high - low <= 1e-9 * size:
        margin = max(1.0, size / 1e6) if axis.unit == "count" else size / 10
        low, high = low - margin, high + margin
    ticks = ticks_of(low, high, n_steps, whole=axis.unit == "count")
    unit, name = unit_of(max(abs(ticks[0]), abs(ticks[-1]))) if axis.unit == "bytes" else (1.0, "")
    texts = tick_texts([tick / unit for tick in ticks])
    return Scale(ticks[0], ticks[-1], ticks, texts, f"{axis.label} ({name})" if name else axis.label)


def ticks_of(low: float, high: float, n_steps: int = 5, *, whole: bool = False) -> tuple[float, ...]:
    """Round numbers from `low` or below to `high` or above, in steps of 1, 2 or 5 times a power of ten.

    Args:
        low: the lowest value.
        high: the highest one, above `low`.
        n_steps: about how many steps.
        whole: only whole numbers.
    """
    wanted = (high - low) / n_steps
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{number * step:.12g}") for number in range(first, max(last, first + 1) + 1))


def tick_texts(ticks: Sequence[float]) -> tuple[str, ...]:
    """All with as many decimals as their distance needs; very large and very small ones with a power of ten."""
    largest, step = max(abs(tick) for tick in ticks), ticks[1] - ticks[0]
    if largest >= 1e7 or step < 1e-5:
        digits = 1 + max(0, math.ceil(math.log10(largest / step)))
        return tuple(f"{tick:.{digits}g}".replace("-", _MINUS) for tick in ticks)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(f"{tick:,.{decimals}f}".replace("-", _MINUS) for tick in ticks)


def unit_of(n_bytes: float) -> tuple[float, str]:
    """The largest unit of which there is one, and its name."""
    return next(((unit, name) for unit, name in _UNITS if n_bytes >= unit), (1.0, "bytes"))


def value_text(value: float, unit: Unit = "number") -> str:
    """A value as people read it: three or four digits."""
    if unit == "bytes":
        size, name = unit_of(abs(value))
        return f"{value / size:,.{0 if size == 1 else 1}f} {name}".replace("-", _MINUS)
    if unit == "count" or (float(value).is_integer() and abs(value) < 1e6):
        return f"{value:,.0f}".replace("-", _MINUS)
    return f"{value:.4g}".replace("-", _MINUS)


def value_texts(values: Sequence[float | None], digits: int = 4) -> tuple[str, ...]:
    """Values that stand below each other, all with as many decimals as the largest has with `digits` digits.

    Where that would make zeros of small ones, each is written by itself; "" for None.
    """
    there = [abs(value) for value in values if value]
    if not there or all(float(value).is_integer() for value in there) or max(there) >= 1e6:
        return tuple("" if value is None else value_text(value) for value in values)
    decimals = max(0, digits - 1 - math.floor(math.log10(max(there))))
    if min(there) < 10.0 ** (1 - decimals) or decimals > 8:
        return tuple("" if value is None else value_text(value) for value in values)
    return tuple("" if value is None else f"{value:,.{decimals}f}".replace("-", _MINUS) for value in values)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> tuple[float, ...]:
    """Places near those that are wanted, in their order, `gap` apart at least, from `low` on and up to `high`.

    Where there is no room for all, they go on beyond `high`.
    """
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    places = [0.0] * len(wanted)
    edge = low
    for index in order:
        places[index] = max(wanted[index], edge)
        edge = places[index] + gap
    edge = max(high, low + gap * (len(wanted) - 1))
    for index in reversed(order):
        places[index] = min(places[index], edge)
        edge = places[index] - gap
    return tuple(places)


def _bounded(value: float) -> float:
    return min(max(float(value), -_LARGEST), _LARGEST)
