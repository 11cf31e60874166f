"""What an attacker has against what was sent: the price of privacy in bytes."""

from collections.abc import Iterator
from typing import Final

from fedlpp_cli.records.audits import AuditReport
from fedlpp_cli.reporting.content import Missing, Section
from fedlpp_cli.reporting.figures import Axis, Level, Plot, Point, Series, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.score_table import ScoreTable, score_tables
from fedlpp_cli.reporting.sections.audits import LEAST, MOST, attack_name
from fedlpp_cli.reporting.story import Story
from fedlpp_cli.reporting.words import ends
from fedlpp_cli.rounding import six_digits

_TITLE: Final = "Privacy frontier"
_HOW: Final = (
    "scores of several rounds (fedlpp evaluate RUN --data TEST --out RUN/evaluate.json), or audits of several settings "
    "of this federation as further arguments"
)
_LEAST_GAIN: Final = 1e-6


def frontier(story: Story) -> Section | Missing | None:
    """The recovery ratio over bytes; with fewer than two points there is nothing to compare."""
    series = [*_of_audits(story), *_of_proxies(story)]
    places = {(point.x, point.y) for one in series for point in one.points}
    if len({x for x, _ in places}) < 2:
        if not story.rounds:
            return None
        return Missing(_TITLE, _HOW)
    allowed = {audit.max_rho for _, audit in story.of(AuditReport) if audit.max_rho is not None}
    figure = Plot(
        name="frontier",
        title="Recovery ratio against bytes sent",
        about="How much of the owner's advantage over the base model can be had for how many bytes. Lower is more "
        "private, further left is cheaper. 0 is the base model, 1 the owner's newest.",
        x=Axis("bytes sent to one client, all rounds together", "bytes"),
        y=Axis("recovery ratio (share of central's advantage)"),
        series=tuple(series),
        levels=(LEAST, *(Level(value, f"allowed: {value_text(value)}") for value in sorted(allowed)), MOST),
        table=_table(series),
    )
    return Section(_TITLE, (figure,))


def _of_audits(story: Story) -> Iterator[Series]:
    """The worst attack of each audit as a point of its own, the others that count together: what one client can do."""
    others: list[Point] = []
    worst: list[Series] = []
    for given, audit in story.of(AuditReport):
        for index, row in enumerate(audit.rows):
            if row.rho is None or not row.counts:
                continue
            if index == audit.worst:
                point = Point(float(audit.bytes_down), row.rho, *ends(row.rho_interval))
                worst.append(Series(f"{given.name}: {attack_name(row)}", len(worst) + 1, (point,), is_line=False))
            else:
                others.append(Point(float(audit.bytes_down), row.rho))
    if others:
        ordered = tuple(sorted(others, key=lambda point: (point.x, point.y)))
        yield Series("other attacks that count", 6, ordered, is_line=False)
    yield from worst


def _of_proxies(story: Story) -> Iterator[Series]:
    """What the proxy of each round has, against what was sent until then."""
    for table in score_tables(story)[:1]:
        gain = _gain(table)
        if gain is None:
            continue
        base, whole = gain
        n_bytes = {**_bytes_of_next(story, table), **story.bytes_until}
        newest = {row.round: row for row in table.of("proxy")}
        points = tuple(
            Point(float(n_bytes[number]), six_digits((table.better(row) - base) / whole))
            for number, row in sorted(newest.items(), key=lambda pair: pair[0] or 0)
            if number is not None and number in n_bytes
        )
        if points:
            yield Series("proxy, by rounds", 0, points)


def _bytes_of_next(story: Story, table: ScoreTable) -> dict[int, int]:
    """Round to bytes of a package that was not sent yet, as an audit of the same master counts it."""
    central = table.newest("central")
    if central is None or central.round is None or central.artifact is None:
        return {}
    of_master = [
        audit.bytes_down
        for given, audit in story.of(AuditReport)
        if given.header.parents.get("master") == (central.artifact,)
    ]
    return {central.round: of_master[-1]} if of_master else {}


def _gain(table: ScoreTable) -> tuple[float, float] | None:
    """How good the base is, and how far the newest central is ahead; None where it is not told from the base.

    A report says so itself; of an older one the intervals do.
    """
    if table.recovery is not None and table.recovery.rho is None:
        return None
    base, central = table.newest("base"), table.newest("central")
    if base is None or central is None:
        return None
    gain = table.better(central) - table.better(base)
    spans = [row.intervals.get(table.headline) for row in (base, central)]
    if (
        table.recovery is None
        and spans[0] is not None
        and spans[1] is not None
        and spans[0].low <= spans[1].high
        and spans[1].low <= spans[0].high
    ):
        return None
    return (table.better(base), gain) if gain > _LEAST_GAIN else None


def _table(series: list[Series]) -> Table:
    rows = tuple(
        (one.name, value_text(point.x, "bytes"), point.y, point.low, point.high)
        for one in series
        for point in one.points
    )
    return Table(("what", "bytes", "rho", "from", "to"), rows)
