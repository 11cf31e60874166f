"""What an audit comes to, in words for somebody who has to decide whether to send the next package."""

from collections.abc import Sequence
from typing import Final

from fedlpp_cli.evaluation.recovery import Recovery
from fedlpp_cli.records.audits import Attack, AttackRow
from fedlpp_cli.records.reports import Interval

# Recovery ratios from which on a model is called not protected, and partly protected.
LOST: Final = 0.9
PARTLY: Final = 0.5
NOT_JUDGED: Final = "NOT JUDGED: no attack that counts was tried."

_DOES: Final[dict[Attack, str]] = {
    "proxy": "who takes the newest proxy as it is",
    "average": "who averages proxies",
    "fine-tune": "who trains on from what was sent",
    "pool": "clients who put together what they have",
    "intersect": "who intersects what the codes of several rounds leave open",
    "replay": "who adds up updates",
    "rerounding": "who gets the same master rounded several times",
    "distill": "who asks the owner's model and trains on its answers",
}


def worst_row(rows: Sequence[AttackRow]) -> int | None:
    """Index of the row with the largest recovery ratio among those that count; None where none has one."""
    found = [(row.rho, -index) for index, row in enumerate(rows) if row.rho is not None and row.counts]
    return -max(found)[1] if found else None


def verdict(rows: Sequence[AttackRow], central: Recovery, *, max_rho: float | None, n_examples: int) -> str:
    """One or more sentences; the first begins in capitals.

    Args:
        rows: all that was tried.
        central: of the owner's model itself: whether it is told from base.
        max_rho: what the owner allows.
        n_examples: held-out rows.
    """
    worst = worst_row(rows)
    if central.rho is None:
        told = f"the gain is {central.gain:.3g}{_interval(central.gain_interval)}"
        return f"NOTHING TO PROTECT: central is not told from base on these {n_examples} rows ({told})."
    if worst is None:
        return NOT_JUDGED
    decision = _decision(rows[worst], max_rho, is_whole=not _missed(rows))
    return " ".join([_opinion(rows[worst]), *_beside(rows), *decision])


def exceeds(row: AttackRow | None, max_rho: float | None) -> bool:
    """Whether this row has more than is allowed."""
    return row is not None and row.rho is not None and max_rho is not None and row.rho > max_rho


def _opinion(row: AttackRow) -> str:
    rho = row.rho or 0.0
    word = (
        "NOT PROTECTED" if rho >= LOST else "PARTLY PROTECTED" if rho >= PARTLY else "PROTECTED against these attacks"
    )
    share = f"{_percent(rho)}{_percents(row.rho_interval)}"
    got = "none" if rho <= 0 else "all" if rho >= 1 else share
    more = f", and more: {share}" if rho >= 1 else ""
    return (
        f"{word}: {_DOES[row.attack]} ({row.variant}) has {got} of what this federation taught the model{more}. "
        f"It takes {row.knows}."
    )


def _beside(rows: Sequence[AttackRow]) -> list[str]:
    """What does not count, and is worth a sentence; what counts, and was not tried."""
    said = []
    others = [row for row in rows if not row.counts and row.rho is not None]
    alone = [row for row in others if row.attack == "fine-tune"]
    if alone:
        rows_alone = alone[0].knows.partition(", and ")[2] or "rows of its own"
        said.append(f"Without any package, training on {rows_alone} gives {_percent(alone[0].rho or 0.0)}.")
        others = [row for row in others if row.attack != "fine-tune"]
    if others:
        best = max(others, key=lambda row: row.rho or 0.0)
        said.append(f"Not counted: {_percent(best.rho or 0.0)} with {best.knows} ({best.attack}, {best.variant}).")
    missed = _missed(rows)
    if missed:
        said.append(f"{missed} of the attacks that count did not fit into --budget.")
    return said


def _missed(rows: Sequence[AttackRow]) -> int:
    """How many attacks that count there was no time for."""
    return sum(row.counts and row.skipped is not None and row.skipped.startswith("--budget") for row in rows)


def _decision(row: AttackRow, max_rho: float | None, *, is_whole: bool) -> list[str]:
    if max_rho is None:
        return []
    if exceeds(row, max_rho):
        return [f"Do not send the next package: --max-rho allows {_percent(max_rho)}."]
    may_go = "The next package may go" if is_whole else "By what was tried the next package may go"
    return [f"{may_go}: --max-rho allows {_percent(max_rho)}."]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _percents(interval: Interval | None) -> str:
    return "" if interval is None else f" ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f", {interval.low:.3g} to {interval.high:.3g}"
