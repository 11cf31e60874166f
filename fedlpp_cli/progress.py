"""How a step tells what it is doing, without knowing whether anybody looks."""

from typing import Protocol


class Progress(Protocol):
    """Called with a few words, and how much of how much is done."""

    def __call__(self, text: str, done: int, total: int) -> None:
        """Say it."""
        ...


def silent(text: str, done: int, total: int) -> None:
    """Tell nobody."""
