"""A search for the rows of a small batch: tokens are replaced, put in, exchanged and moved while the match gets better.

The discrete half of LAMP (Balunovic et al. 2022, arXiv 2202.08827). Of each batch of trials the best is taken if it is
better than what is there; where nothing has been better for long, a third of a row is drawn anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fedlpp_cli.leakage.gradient_match import GradientMatch
from fedlpp_cli.tasks.task import IGNORED, Example

_AT_ONCE: Final = 32  # trials, of which the best is taken
_PATIENCE: Final = 40  # batches of trials without any that is better
_DRAWN_ANEW: Final = 1 / 3  # of a row's places
# How often a trial replaces a token, puts one in for another elsewhere, exchanges two; else it moves one.
_REPLACED: Final = 0.6
_PUT_IN: Final = 0.8
_EXCHANGED: Final = 0.9

# With this match there is nothing left to explain.
_WHOLE: Final = 1 - 1e-4

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Shape:
    """All that is known of a row beforehand: its length, its special tokens, which of it is learnt, its class."""

    row: Example
    free: tuple[int, ...]

    def filled(self, tokens: Sequence[int]) -> Example:
        """The row with those tokens at its free places."""
        ids = list(self.row.input_ids)
        for place, token in zip(self.free, tokens, strict=True):
            ids[place] = token
        labels = self.row.labels
        if isinstance(labels, tuple):
            labels = tuple(IGNORED if label == IGNORED else ids[place] for place, label in enumerate(labels))
        return replace(self.row, input_ids=tuple(ids), labels=labels)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The tokens at each row's free places, the match that they reach, and whether there was no time for more."""

    rows: list[Tokens]
    match: float
    was_cut: bool


def search(
    match: GradientMatch,
    shapes: Sequence[Shape],
    candidates: Sequence[int],
    draws: np.random.RandomState,
    n_trials: int,
    on_trials: Callable[[int, float], bool],
) -> Rebuilt:
    """Look for rows of those shapes that explain an update.

    Args:
        match: says how well rows explain it.
        shapes: of the rows.
        candidates: tokens to try.
        draws: where it starts, and what it tries.
        n_trials: how many rows to try.
        on_trials: told after each batch how many were tried and what the best match is; False ends the search.
    """
    rows = [_drawn(candidates, draws, len(shape.free)) for shape in shapes]
    parts = match.gradients([shape.filled(row) for shape, row in zip(shapes, rows, strict=True)])
    reached = float(match.cosines(parts.sum(0)))
    best, n_tried, n_idle, turn = Rebuilt([*rows], reached, was_cut=False), len(rows), 0, 0
    while n_tried < n_trials and best.match < _WHOLE:
        if not on_trials(n_tried, best.match):
            return replace(best, was_cut=True)
        which = turn % len(shapes)
        anew = n_idle >= _PATIENCE * len(shapes)
        tries = _tries(rows[which], candidates, draws, min(_AT_ONCE, n_trials - n_tried), anew=anew)
        made = match.gradients([shapes[which].filled(tokens) for tokens in tries])
        scores = match.cosines(parts.sum(0) - parts[which] + made)
        first = int(scores.argmax())
        n_tried, turn = n_tried + len(tries), turn + 1
        is_better = float(scores[first]) > reached
        if is_better or anew:
            rows[which], parts[which], reached = tries[first], made[first], float(scores[first])
        n_idle = 0 if is_better or anew else n_idle + 1
        if reached > best.match:
            best = Rebuilt([*rows], reached, was_cut=False)
    return best


def _tries(
    row: Tokens, candidates: Sequence[int], draws: np.random.RandomState, n_tries: int, *, anew: bool
) -> list[Tokens]:
    if not row:
        return [row]
    change = _partly_drawn if anew else _changed
    return [change(row, candidates, draws) for _ in range(n_tries)]


def _drawn(candidates: Sequence[int], draws: np.random.RandomState, n_tokens: int) -> Tokens:
    return [candidates[i] for i in draws.randint(0, len(candidates), n_tokens)]


def _partly_drawn(row: Tokens, candidates: Sequence[int], draws: np.random.RandomState) -> Tokens:
    fresh, is_fresh = _drawn(candidates, draws, len(row)), draws.random_sample(len(row)) < _DRAWN_ANEW
    return [new if chosen else old for new, old, chosen in zip(fresh, row, is_fresh, strict=True)]


def _changed(row: Tokens, candidates: Sequence[int], draws: np.random.RandomState) -> Tokens:
    """A row of the same length that differs by one change."""
    kind = draws.random_sample()
    place, other = (int(i) for i in draws.randint(0, len(row), 2))
    token = candidates[draws.randint(len(candidates))]
    changed = list(row)
    if kind < _REPLACED:
        changed[place] = token
    elif kind < _PUT_IN:
        del changed[other]
        changed.insert(place, token)
    elif kind < _EXCHANGED:
        changed[place], changed[other] = changed[other], changed[place]
    else:
        changed.insert(place, changed.pop(other))
    return changed
