"""Attackers by what they have. Each idea names its attacker in words that somebody who decides can read."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlpp_cli.records.audits import Attack, AttackRow


@dataclass(frozen=True, slots=True)
class Idea:
    """One thing to try: the kind of attack, which of its kind, what it takes, and whether a verdict looks at it."""

    attack: Attack
    variant: str
    knows: str
    counts: bool

    def skipped(self, reason: str) -> AttackRow:
        """A row without numbers."""
        return AttackRow(
            attack=self.attack, variant=self.variant, knows=self.knows, counts=self.counts, skipped=reason[:300]
        )


def packages(n_rounds: int) -> str:
    """Of the newest rounds."""
    return "the newest package" if n_rounds == 1 else f"the packages of {n_rounds} rounds"


def rows_of(clients: Sequence[str], n_rows: int) -> str:
    """Data of one client, or of several together."""
    whose = f"{clients[0]}'s" if len(clients) == 1 else f"the {len(clients)} clients'"
    return f"{whose} {n_rows} rows"


def half_of(clients: Sequence[str]) -> list[str]:
    """The coalition of half the clients that audits look at: the first ones by name, rounded down."""
    return sorted(clients)[: len(clients) // 2]
