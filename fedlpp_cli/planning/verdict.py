"""Which setting is chosen, and what is said of it."""

import math
from collections.abc import Sequence
from typing import Final

from fedlpp_cli.records.plans import PlanRow, PlanTargets
from fedlpp_cli.rounding import six_digits

# From here on an audit would call a release unprotected.
_UNPROTECTED: Final = 0.9
# Of the gain, where nobody has said what the owner's model may lose.
_SPARE: Final = 0.1


def choose(rows: Sequence[PlanRow], targets: PlanTargets, plain_loss: float, gain: float) -> int | None:
    """The row that meets all targets with the fewest bytes down, then the smallest `rho`, then the first.

    Without any target it is the one with the smallest `rho` of those whose owner's model keeps nine tenths of the gain,
    or of all if none does. A row whose rounds were not simulated is never chosen:
    nobody knows what the owner's model would be.

    Args:
        rows: the settings.
        targets: what is asked for.
        plain_loss: of the owner's model without rounding.
        gain: how far that is below the base's.
    """
    fit = [index for index, row in enumerate(rows) if not row.for_comparison and meets(row, targets, plain_loss)]
    if not fit:
        return None
    told = targets != PlanTargets()

    def order(index: int) -> tuple[float, ...]:
        row = rows[index]
        rho = math.inf if row.rho is None else row.rho
        forgets = row.central["loss"] - plain_loss > _SPARE * gain
        return (row.bytes_down, rho, index) if told else (forgets, rho, row.bytes_down, index)

    return min(fit, key=order)


def meets(row: PlanRow, targets: PlanTargets, plain_loss: float) -> bool:
    """Whether the row is known to be within every target."""
    if not row.central:
        return False
    if targets.max_rho is not None and (row.rho is None or row.rho > targets.max_rho):
        return False
    if targets.max_bytes_down is not None and row.bytes_down > targets.max_bytes_down:
        return False
    increase = row.central["loss"] - plain_loss
    return targets.max_loss_increase is None or increase <= targets.max_loss_increase


def verdict(rows: Sequence[PlanRow], targets: PlanTargets, chosen: int | None, *, gain_is_told: bool) -> str:
    """One sentence."""
    simulated = [row for row in rows if row.central]
    if not gain_is_told:
        return (
            "after these rounds even the federation without rounding is not told from the base: more rounds, steps or "
            "rows are needed before leakage means anything"
        )
    if not simulated:
        return "no setting's rounds were played, so that nobody knows what any would give away"
    if chosen is None:
        known = [row.rho for row in simulated if row.rho is not None and not row.for_comparison]
        best = f"; the smallest rho is {min(known):.2f}" if known else ""
        return f"none of the {len(simulated)} settings that were simulated meets {spell_targets(targets)}{best}"
    row = rows[chosen]
    rho = "" if row.rho is None else f", rho {six_digits(row.rho):.2f}"
    if row.rho is not None and row.rho > _UNPROTECTED:
        rho += ": its proxies give away nearly all that the owner's model has learned"
    reason = f"meets {spell_targets(targets)} with the fewest bytes" if targets != PlanTargets() else "the smallest rho"
    return f"chosen: {row.label} ({reason}){rho}"


def way_out(rows: Sequence[PlanRow]) -> str:
    """What to try where nothing is chosen."""
    simulated = [row for row in rows if row.central]
    if not simulated:
        return "a larger --budget"
    if all(row.rho is None for row in simulated):
        return "more --rounds, more steps under [train] of the federation file, or more rows, of the clients' kind"
    return "more of --bits, --block, --rank, --group-by; fewer rounds; or a target that can be met"


def spell_targets(targets: PlanTargets) -> str:
    """The targets as options."""
    found = [
        ("--max-rho", targets.max_rho),
        ("--max-bytes-down", targets.max_bytes_down),
        ("--max-loss-increase", targets.max_loss_increase),
    ]
    given = [f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}" for flag, value in found
             if value is not None]  # fmt: skip
    return ", ".join(given) or "what is asked for"
