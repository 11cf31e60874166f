"""Which width each group of tensors gets, for so many bytes: from the widest on, always the cheapest step down.

A step lowers one group to its next width. What it costs is the rise of the group's score (`planning/probe.py`),
measured with the group alone; the step with the least cost for a byte saved comes first, and one that lowers the score
before all others. The scores of several groups are added, which is right as long as they hardly touch one another; what
the whole allocation does is measured afterwards, as for every candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from fedlpp_cli.records.plans import GroupRow
from fedlpp_cli.records.specs import Bits

Widths = dict[str, Bits]


def allocate(rows: Iterable[GroupRow], widths: Sequence[Bits], max_bytes: int) -> Widths | None:
    """Group to width, so that all groups together take `max_bytes` at most; None where they cannot.

    Args:
        rows: every group at every width.
        widths: widest first.
        max_bytes: codes and scales of all groups.
    """
    table = {(row.group, row.bits): row for row in rows}
    found: Widths = dict.fromkeys(sorted({group for group, _ in table}), widths[0])
    after: Mapping[Bits, Bits] = dict(pairwise(widths))
    n_bytes = sum(table[item].n_bytes for item in found.items())
    while n_bytes > max_bytes:
        steps = [step for step in (_step(table, group, bits, after) for group, bits in found.items()) if step]
        if not steps:
            return None
        _, group, bits, saved = min(steps)
        found[group], n_bytes = bits, n_bytes - saved
    return found


def _step(
    table: Mapping[tuple[str, Bits], GroupRow], group: str, bits: Bits, after: Mapping[Bits, Bits]
) -> tuple[float, str, Bits, int] | None:
    """Cost for a byte, group, its next width that saves something, and bytes saved."""
    now, below = table[group, bits], bits
    while below in after:
        below = after[below]
        saved = now.n_bytes - table[group, below].n_bytes
        if saved > 0:
            return (table[group, below].score - now.score) / saved, group, below, saved
    return None
