"""What each client has contributed."""

from collections.abc import Sequence
from typing import Final

from fedlpp_cli.records.reports import AggregateReport, ClientContribution
from fedlpp_cli.reporting.content import Listing, Missing, Part, Section
from fedlpp_cli.reporting.figures import Axis, Cell, Row, Rows, Table
from fedlpp_cli.reporting.story import Story, rounds_with_reports
from fedlpp_cli.reporting.words import counted
from fedlpp_cli.rounding import mean_of, six_digits

_TITLE: Final = "Clients"
# A bar each for the largest; of the others a sentence tells.
_MAX_ROWS: Final = 24


def clients(story: Story) -> Section | Missing | None:
    """Shares of the weight, and what reports say of each client."""
    reports = [report for _, report in rounds_with_reports(story.rounds)]
    weights = _weights(reports)
    whole = sum(weights.values())
    if not weights or whole <= 0:
        return (
            Missing(_TITLE, "fedlpp aggregate writes master.report.json beside each master") if story.rounds else None
        )
    parts: list[Part] = [_shares(weights, whole, len(reports))]
    parts.append(Listing("Each client", _table(reports, weights, whole), is_folded=len(weights) > _MAX_ROWS))
    return Section(_TITLE, tuple(parts))


def _weights(reports: Sequence[AggregateReport]) -> dict[str, float]:
    """Client to the sum of its weights, the largest first."""
    sums: dict[str, float] = {}
    for report in reports:
        for one in report.clients:
            sums[one.client] = sums.get(one.client, 0.0) + abs(one.weight)
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def _shares(weights: dict[str, float], whole: float, n_rounds: int) -> Rows:
    named = list(weights)[:_MAX_ROWS]
    rows = [Row(client, six_digits(100 * weights[client] / whole)) for client in named]
    rest = 100 - sum(row.value for row in rows)
    others = f" The {counted(len(weights) - len(named), 'other client')} had {rest:.3g} % together."
    return Rows(
        name="contribution",
        title="Share of each client in the master",
        about=f"How much of the weight of all updates over {counted(n_rounds, 'round')} each client's updates had, "
        "in per cent. With a rule that goes value by value, how often it took part."
        + (others if len(named) < len(weights) else ""),
        x=Axis("share of the weight of all updates (%)", from_zero=True),
        rows=tuple(rows),
        kind="bar",
        table=Table(("client", "share in %"), tuple((row.label, row.value) for row in rows)),
    )


def _table(reports: Sequence[AggregateReport], weights: dict[str, float], whole: float) -> Table:
    found: dict[str, list[ClientContribution]] = {client: [] for client in weights}
    n_left_out: dict[str, int] = {}
    for report in reports:
        for one in report.clients:
            found[one.client].append(one)
        for rejected in report.rejected:
            name = rejected.client or "not readable"
            n_left_out[name] = n_left_out.get(name, 0) + 1
    rows = [
        (client, len(of_one), n_left_out.get(client, 0), *_numbers(of_one), six_digits(100 * weights[client] / whole))
        for client, of_one in sorted(found.items())
    ]
    rows += [
        (client, 0, number, None, None, None, None, None, None)
        for client, number in sorted(n_left_out.items())
        if client not in found
    ]
    head = (
        "client", "rounds", "left out", "examples", "mean norm", "mean cosine", "loss first", "loss last", "share in %",
    )  # fmt: skip
    return Table(head, tuple(rows))


def _numbers(of_one: Sequence[ClientContribution]) -> tuple[Cell, ...]:
    """Examples and losses of the last round, norm and cosine over all."""
    last = of_one[-1]
    means = [mean_of(one.update_norm for one in of_one), mean_of(one.cosine for one in of_one)]
    return (
        last.n_examples,
        *(None if mean is None else six_digits(mean) for mean in means),
        last.loss_first,
        last.loss_last,
    )
