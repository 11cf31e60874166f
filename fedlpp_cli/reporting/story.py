"""What a page is about: a run as its artifacts tell it, reports, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedlpp_cli.records.headers import ReportHeader, UpdateSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.reports import AggregateReport
from fedlpp_cli.records.specs import Bits, ModelSpec

ReportT = TypeVar("ReportT", bound=Record)


@dataclass(frozen=True, slots=True)
class Given:
    """A report, by the name that it has on the page."""

    name: str
    header: ReportHeader
    sha256: str


@dataclass(frozen=True, slots=True)
class RoundTold:
    """One round of a run; None stands for what is not there.

    `updates`: what each says of itself. `report`: how they became the next master, which has
    `number + 1`. `bytes_down`: the package, to each client; `bytes_up`: one update, the largest.
    """

    number: int
    master: str | None = None
    package: str | None = None
    bits: Bits | None = None
    bytes_down: int | None = None
    bytes_up: int | None = None
    updates: tuple[UpdateSpec, ...] = ()
    report: AggregateReport | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """All that a page is made of. `model` is None where no master or proxy was there to say it."""

    federation: str | None
    model: ModelSpec | None
    rounds: tuple[RoundTold, ...]
    reports: tuple[Given, ...]

    def of(self, kind: type[ReportT]) -> list[tuple[Given, ReportT]]:
        """The reports of one kind, in order."""
        return [(one, one.header.spec) for one in self.reports if isinstance(one.header.spec, kind)]

    @property
    def clients(self) -> tuple[str, ...]:
        """Everybody who sent an update, by name."""
        sent = {update.client for one in self.rounds for update in one.updates}
        used = {client.client for one in self.rounds if one.report for client in one.report.clients}
        return tuple(sorted(sent | used))

    @property
    def bytes_until(self) -> Mapping[int, int]:
        """Round to what one client was sent from the first to this one; without rounds behind one that is missing."""
        sums: dict[int, int] = {}
        total = 0
        for expected, one in enumerate(self.rounds):
            if one.number != expected or one.bytes_down is None:
                break
            total += one.bytes_down
            sums[one.number] = total
        return sums


def rounds_with_reports(rounds: Sequence[RoundTold]) -> list[tuple[RoundTold, AggregateReport]]:
    """The rounds of which there is a report."""
    return [(one, one.report) for one in rounds if one.report is not None]
