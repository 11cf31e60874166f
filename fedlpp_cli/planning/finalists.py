"""Rounds for the settings that are worth it, and how much of the owner's model their proxies give away."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import GateError
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Scored, mean_scores
from fedlpp_cli.planning.candidates import Candidate
from fedlpp_cli.planning.pareto import front
from fedlpp_cli.planning.rounds import Stage, play
from fedlpp_cli.planning.survey import Survey, rounded
from fedlpp_cli.records.plans import PlanRow
from fedlpp_cli.rounding import six_digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For how long settings are simulated, from `started_s` on (`time.monotonic`); None for as long as it takes."""

    seconds: float | None
    started_s: float


def finalists(rows: Sequence[PlanRow], gain: float, n: int, max_bytes_down: int | None = None) -> list[int]:
    """Indices of the rows to simulate, in their order: up to `n` of those that no other row beats.

    What counts is bytes down, how much worse the proxy is than the model (as far as the base, which everybody has), and
    how well its gradients agree. The best score comes first, and then always the row whose proxy's loss is farthest
    from all that came before: so a few simulations span what can be had. Of the rows for comparison the best one comes
    last.

    Args:
        rows: measured ones, and others, which are passed over.
        gain: how far the model is ahead of the base, in nats.
        n: how many.
        max_bytes_down: rows that send more are passed over.
    """
    measured = [index for index, row in enumerate(rows) if row.score is not None]
    most = float("inf") if max_bytes_down is None else max_bytes_down
    there = [index for index in measured if not rows[index].for_comparison and rows[index].bytes_down <= most]
    increase = {index: min(rows[index].loss_increase or 0.0, max(gain, 0.0)) for index in measured}

    def score(index: int) -> tuple[float, int]:
        return rows[index].score or 0.0, index

    costs = [(float(rows[index].bytes_down), -increase[index], -(rows[index].cosine or 0.0)) for index in there]
    left = sorted((there[index] for index in front(costs)), key=score)
    taken = left[:1]
    while len(taken) < min(n, len(left)):
        rest = [index for index in left if index not in taken]
        taken.append(max(rest, key=lambda index: min(abs(increase[index] - increase[one]) for one in taken)))
    compared = [index for index in measured if rows[index].for_comparison]
    return [*taken, *sorted(compared, key=score)[:1]]


def simulate_all(
    rows: list[PlanRow],
    chosen: Sequence[int],
    candidates: Sequence[Candidate],
    survey: Survey,
    stage: Stage,
    base: Scored,
    limits: Limits,
) -> None:
    """Replace each chosen row by one with what its rounds ended in, until time is up; the others say why not.

    Another setting is begun only if one that takes as long as the last would still end in time.
    """
    last_s = 0.0
    for index, row in enumerate(rows):
        if index not in chosen and row.skipped is None:
            rows[index] = replace(row, skipped="not simulated: others are as good, or promise more")
    for number, index in enumerate(chosen):
        begun_s = time.monotonic()
        if limits.seconds is not None and begun_s - limits.started_s + last_s > limits.seconds:
            rows[index] = replace(rows[index], skipped="not simulated: the time of --budget was used up")
            continue
        survey.bench.on_progress(f"simulating {rows[index].label}", number, len(chosen))
        rows[index] = _simulated(rows[index], candidates[index], survey, stage, base, f"setting-{index}")
        last_s = time.monotonic() - begun_s
    _mark_front(rows)


def owners_score(survey: Survey, stage: Stage, federation: FederationSpec, name: str) -> tuple[Scored, Scored, Scored]:
    """What the owner's model, the newest proxy and the mean of proxies get after the rounds, on one base."""
    played = play(stage, federation, name)
    bench = survey.bench
    folder = survey.bases(federation.base_quantize) if federation.private_base else survey.folder
    central = bench.scored(survey.folder, played.lora, played.central)
    return (
        central,
        bench.scored(folder, survey.lora, played.newest),
        bench.scored(folder, survey.lora, played.mean),
    )


def _simulated(
    row: PlanRow, candidate: Candidate, survey: Survey, stage: Stage, base: Scored, name: str
) -> PlanRow:  # fmt: skip
    try:
        central, newest, mean = owners_score(survey, stage, candidate.federation(survey.federation), name)
    except GateError as problem:
        return replace(row, skipped=f"rounds went wrong: {problem}"[:300])
    found = [recovery(attacker, base=base, central=central) for attacker in (newest, mean)]
    rhos = [None if one.rho is None else six_digits(one.rho) for one in found]
    worst = max(found, key=lambda one: one.rho if one.rho is not None else float("-inf"))
    return replace(
        row,
        central=rounded(mean_scores(central)),
        rho_newest=rhos[0],
        rho_mean=rhos[1],
        rho=None if worst.rho is None else six_digits(worst.rho),
        rho_interval=worst.interval,
    )


def _mark_front(rows: list[PlanRow]) -> None:
    there = [index for index, row in enumerate(rows) if row.rho is not None and not row.for_comparison]
    costs = [(float(rows[index].bytes_down), rows[index].central["loss"], rows[index].rho or 0.0) for index in there]
    for index in front(costs):
        rows[there[index]] = replace(rows[there[index]], on_front=True)
