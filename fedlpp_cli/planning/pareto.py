"""Which of several rows no other one beats in everything."""

from collections.abc import Sequence


def front(costs: Sequence[tuple[float, ...]]) -> list[int]:
    """Indices of the rows, ascending, that no other row is at least as good as in all and better than in one.

    Args:
        costs: of each row as many numbers, small being good. Of equal rows all stay.
    """
    return [
        index for index, own in enumerate(costs) if not any(_beats(other, own) for other in costs)
    ]  # fmt: skip


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
