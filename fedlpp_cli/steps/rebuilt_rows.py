"""Rows of a small batch, rebuilt from an update: found, held against chance, and tried again with noise."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.leakage.canaries import make_canaries
from fedlpp_cli.leakage.gradient_match import GradientMatch
from fedlpp_cli.leakage.row_recovery import (
    candidates_of,
    drawn_shares,
    own_tokens,
    shapes_of,
    share_found,
    share_in_order,
)
from fedlpp_cli.leakage.row_search import Rebuilt, search
from fedlpp_cli.leakage.token_recovery import token_nearness
from fedlpp_cli.leakage.token_rises import mean_log_probabilities
from fedlpp_cli.randomness import numpy_draws
from fedlpp_cli.records.audits import RowRecovery
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.rehearsal import rehearse, with_spending
from fedlpp_cli.steps.update_leaks import OpenAudit, change_of, on_probes, own_privacy
from fedlpp_cli.tasks.task import Example

DEFAULT_TRIALS: Final = 4096
MOST_ROWS: Final = 4
# What more steps did is too far from the gradient of the first.
MOST_STEPS: Final = 8


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """How many rows a search may try, and how many minutes all searches have together; None for no limit."""

    n_trials: int = DEFAULT_TRIALS
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class _Searched:
    rebuilt: Rebuilt
    match_of_rows: float
    candidates: list[int]
    n_trials: int


def rebuilt_rows_of(audit: OpenAudit, privacy: PrivacySpec | None, rebuilding: Rebuilding) -> tuple[RowRecovery, ...]:
    """How much of the rows a search rebuilds from the update, and from a training like it with other noise.

    Args:
        audit: the update.
        privacy: the noise to try; None, or that of the update itself, for the update only.
        rebuilding: how long to search; with no trials nothing is looked at.

    Raises:
        GateError: a training that went wrong.
        ModelError: a factor that is no linear layer.
        UsageError: dp-accounting is not installed.
    """
    if not rebuilding.n_trials:
        return ()
    skipped = _reason(audit)
    if skipped is not None:
        return (RowRecovery(of="update", skipped=skipped),)
    own = own_privacy(audit.header)
    specs = [own] if privacy is None or privacy == own else [own, privacy]
    clock = _Clock(rebuilding, 2 * len(specs))
    found = []
    for number, spec in enumerate(specs):
        values = audit.values if number == 0 else _trained(audit, audit.rows.examples, spec)
        found.append(_recovery(audit, values, spec, clock, of_update=number == 0))
    return tuple(found)


def _reason(audit: OpenAudit) -> str | None:
    """Why no row is looked for."""
    n_rows, n_steps = len(audit.rows.examples), audit.header.spec.metrics.n_steps
    if n_rows > MOST_ROWS:
        return f"{n_rows} rows are too many to rebuild: {MOST_ROWS} at most"
    if n_steps > MOST_STEPS:
        return f"{n_steps} steps are too many to rebuild rows: {MOST_STEPS} at most"
    if not audit.package.proxy.header.spec.model.lora.target_modules:
        return "the adapter has no factors"
    return None


class _Clock:
    """Gives each of several searches its share of the time that is left."""

    def __init__(self, rebuilding: Rebuilding, n_searches: int) -> None:
        self.n_trials, self._n_left = rebuilding.n_trials, n_searches
        self._end_s = None if rebuilding.minutes is None else time.monotonic() + 60 * rebuilding.minutes

    def end_of_next(self) -> float:
        """When the next search has to end."""
        if self._end_s is None:
            return float("inf")
        now, n_left = time.monotonic(), self._n_left
        self._n_left -= 1
        return now + (self._end_s - now) / n_left


def _trained(audit: OpenAudit, rows: Sequence[Example], spec: PrivacySpec | None) -> dict[str, Tensor]:
    noise = with_spending(audit.local, spec, len(rows))
    return rehearse(audit.local, audit.header.spec.client, rows, noise, audit.on_progress)


def _recovery(
    audit: OpenAudit, values: Mapping[str, Tensor], spec: PrivacySpec | None, clock: _Clock, *, of_update: bool
) -> RowRecovery:
    rows = audit.rows.examples
    found = _searched(audit, values, spec, clock, "rebuilding rows")
    noise = with_spending(audit.local, spec, len(rows))
    about = RowRecovery(
        of="update" if of_update else "training like it",
        noise_multiplier=None if noise is None else noise[1].noise_multiplier,
        n_rows=len(rows),
    )
    if found is None:
        return replace(about, skipped="what the update changes in the factors is no more than rounding")
    other = _searched(audit, _trained(audit, _decoys(audit), spec), spec, clock, "rebuilding rows by chance")
    own = own_tokens(shapes_of(rows, set(audit.tokenizer.all_special_ids)))
    guess = None if other is None else _guess(own, other, audit.package.folder.sha256)
    return replace(
        about,
        n_tokens=sum(map(len, own)),
        n_candidates=len(found.candidates),
        found=six_digits(share_found(own, found.rebuilt.rows)),
        found_by_chance=None if guess is None else six_digits(guess[0]),
        in_order=six_digits(share_in_order(own, found.rebuilt.rows)),
        in_order_by_chance=None if guess is None else six_digits(guess[1]),
        match=_cosine(found.rebuilt.match),
        match_of_rows=_cosine(found.match_of_rows),
        n_trials=found.n_trials + (0 if other is None else other.n_trials),
        was_cut=found.rebuilt.was_cut or (other is not None and other.rebuilt.was_cut),
    )


def _guess(own: Sequence[Sequence[int]], other: _Searched, name: str) -> tuple[float, float]:
    """What one has without the update: the same search in another, or rows drawn from that one's candidates."""
    drawn = drawn_shares(own, other.candidates, numpy_draws("drawn rows", name))
    rows = other.rebuilt.rows
    return max(drawn[0], share_found(own, rows)), max(drawn[1], share_in_order(own, rows))


def _cosine(value: float) -> float:
    return six_digits(max(-1.0, min(1.0, value)))


def _decoys(audit: OpenAudit) -> Sequence[Example]:
    """As many rows that are not the update's: of its kind where there are others, else of random words."""
    n_rows = len(audit.rows.examples)
    if audit.others is not None and len(audit.others.examples) >= n_rows:
        return audit.others.examples[:n_rows]
    name = audit.package.folder.sha256
    return make_canaries(audit.local.task, audit.tokenizer, audit.columns, n_rows, name, "decoys")


def _searched(
    audit: OpenAudit, values: Mapping[str, Tensor], spec: PrivacySpec | None, clock: _Clock, doing: str
) -> _Searched | None:
    """Rows rebuilt from proxy plus update; None where it has moved no factor."""
    rows, special = audit.rows.examples, set(audit.tokenizer.all_special_ids)
    change = change_of(audit, values)
    recipe, is_classifier = audit.package.folder.header.spec.train, bool(audit.local.task.spec.labels)
    tokens = [
        token
        for token in range(audit.local.adapted.model.get_input_embeddings().num_embeddings)
        if token not in special
    ]
    shapes = shapes_of(rows, special)
    rises = None if is_classifier else np.subtract(*on_probes(audit, values, mean_log_probabilities))[tokens]
    near, _ = token_nearness(audit.local.adapted, change, tokens, max(len(row.input_ids) for row in rows))
    n_places, has_spans = sum(len(shape.free) for shape in shapes), recipe.optimizer == "sgd"
    candidates = candidates_of(tokens, near, rises, n_places, has_spans=has_spans)
    match = GradientMatch(
        audit.local.adapted,
        audit.local.task,
        change.start,
        change.values,
        modules=change.modules,
        optimizer=recipe.optimizer,
        bound=None if spec is None else spec.max_grad_norm,
        batch_size=audit.batch_size,
    )
    end_s = clock.end_of_next()

    def on_trials(n_tried: int, reached: float) -> bool:
        audit.on_progress(f"{doing}, match {reached:.3f}", n_tried, clock.n_trials)
        return time.monotonic() < end_s

    try:
        if not match.says_something:
            return None
        truth = float(match.cosines(match.gradients(rows).sum(0)))
        draws = numpy_draws("rebuilt rows", audit.package.folder.sha256)
        rebuilt = search(match, shapes, candidates, draws, clock.n_trials, on_trials)
        return _Searched(rebuilt, truth, candidates, match.n_trials)
    finally:
        match.close()
