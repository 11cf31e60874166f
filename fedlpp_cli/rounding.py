"""Numbers for people and headers."""

from collections.abc import Iterable


def six_digits(value: float) -> float:
    """The value to six significant digits.

    Sums over threads differ in their last bits; headers must not.
    """
    return float(f"{value:.6g}")


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
