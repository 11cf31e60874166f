"""How large updates are and where they point, and which were left out."""

from collections.abc import Callable, Sequence
from typing import Final

from fedlpp_cli.records.reports import AggregateReport, ClientContribution
from fedlpp_cli.reporting.content import Listing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Cell, Level, Plot, Point, Series, Table
from fedlpp_cli.reporting.story import RoundTold, Story, rounds_with_reports
from fedlpp_cli.reporting.words import counted, short

# Of more clients nobody tells the colours apart: they are one cloud.
_MAX_SERIES: Final = 6
_MEAN: Final = 6  # the number of its style

Told = tuple[RoundTold, AggregateReport]


def norms(story: Story) -> Section | None:
    """Norms, cosines, rejections; None without reports, of which the clients' section tells."""
    told = rounds_with_reports(story.rounds)
    if not any(report.clients for _, report in told):
        return None
    parts: list[Part] = [_norms(told)]
    if any(one.cosine is not None for _, report in told for one in report.clients):
        parts.append(_cosines(told))
    parts += _left_out(told)
    return Section("Updates", tuple(parts))


def _norms(told: Sequence[Told]) -> Plot:
    mean = tuple(Point(float(one.number), report.mean_norm) for one, report in told)
    limits = sorted({report.aggregate.clip_norm for _, report in told if report.aggregate.clip_norm is not None})
    return Plot(
        name="norms",
        title="Norm of each update",
        about="Before clipping, and of what the rule made of all updates of a round. An update far above the others is "
        "worth a look.",
        x=Axis("round in which clients trained", "count"),
        y=Axis("norm of the update (no unit)", from_zero=True),
        series=(*_by_client(told, lambda one: one.update_norm), Series("result", _MEAN, mean)),
        levels=tuple(Level(limit, f"clipped to {limit:g}") for limit in limits[:1] if len(limits) == 1),
        table=_table(told),
    )


def _cosines(told: Sequence[Told]) -> Plot:
    return Plot(
        name="cosines",
        title="Where each update points",
        about="The cosine between an update and the result of its round: 1 is the same direction, 0 says nothing of "
        "it, below 0 it pulls the other way.",
        x=Axis("round in which clients trained", "count"),
        y=Axis("cosine with the round's result"),
        series=tuple(_by_client(told, lambda one: one.cosine)),
        levels=(Level(0.0, "at right angles"),),
        table=_table(told),
    )


def _by_client(told: Sequence[Told], value: Callable[[ClientContribution], float | None]) -> list[Series]:
    points: dict[str, list[Point]] = {}
    for one, report in told:
        for client in report.clients:
            found = value(client)
            if found is not None:
                points.setdefault(client.client, []).append(Point(float(one.number), found))
    if len(points) <= _MAX_SERIES:
        return [
            Series(client, number, tuple(points[client]), is_line=False) for number, client in enumerate(sorted(points))
        ]
    cloud = sorted((point.x, point.y) for of_one in points.values() for point in of_one)
    return [Series(counted(len(points), "client"), 0, tuple(Point(x, y) for x, y in cloud), is_line=False)]


def _left_out(told: Sequence[Told]) -> list[Part]:
    rows: list[tuple[Cell, ...]] = [
        (str(one.number), rejected.client or "not readable", short(rejected.update), rejected.code, rejected.reason)
        for one, report in told
        for rejected in report.rejected
    ]
    n_used = sum(len(report.clients) for _, report in told)
    if not rows:
        return [Paragraph(f"All {counted(n_used, 'update')} that came were used; none was left out.")]
    head = ("round", "client", "update", "code", "reason")
    listing = Listing(f"Left out: {counted(len(rows), 'update')}", Table(head, tuple(rows), text_columns=5))
    figure = Plot(
        name="updates",
        title="Updates used and left out",
        about="How many updates of each round went into the master, and how many did not. The reasons are below.",
        x=Axis("round in which clients trained", "count"),
        y=Axis("updates", "count", from_zero=True),
        series=(
            Series("used", 0, tuple(Point(float(one.number), float(len(report.clients))) for one, report in told)),
            Series("left out", 1, tuple(Point(float(one.number), float(len(report.rejected))) for one, report in told)),
        ),
        table=Table(
            ("round", "used", "left out"),
            tuple((str(one.number), len(report.clients), len(report.rejected)) for one, report in told),
        ),
    )
    return [figure, listing]


def _table(told: Sequence[Told]) -> Table:
    rows = tuple(
        (str(one.number), client.client, client.update_norm, client.product_norm, client.clip_factor, client.cosine)
        for one, report in told
        for client in report.clients
    )
    return Table(("round", "client", "norm", "norm of B A", "clip factor", "cosine"), rows, text_columns=2)
