"""What clients tell of their training losses."""

from fedlpp_cli.records.reports import ClientContribution
from fedlpp_cli.records.specs import TrainMetrics
from fedlpp_cli.reporting.content import Section
from fedlpp_cli.reporting.figures import Axis, Plot, Point, Series, Table
from fedlpp_cli.reporting.story import RoundTold, Story
from fedlpp_cli.rounding import mean_of, six_digits


def losses(story: Story) -> Section | None:
    """The mean over clients at the first and the last step of each round; None where nobody tells any."""
    told = [(one.number, *means) for one in story.rounds if (means := _means(one))]
    if not told:
        return None
    figure = Plot(
        name="training-loss",
        title="Training loss in each round",
        about="The mean over clients of what each reports of its own data, with equal weights: in the first step of a "
        "round, on the proxy that it was sent, and in the last one.",
        x=Axis("round in which clients trained", "count"),
        y=Axis("loss (nats, less is better)"),
        series=(
            Series("first step", 1, tuple(Point(float(number), first) for number, first, _, _ in told)),
            Series("last step", 0, tuple(Point(float(number), last) for number, _, last, _ in told)),
        ),
        table=Table(
            ("round", "first step", "last step", "clients that tell"),
            tuple((str(number), first, last, n_clients) for number, first, last, n_clients in told),
        ),
    )
    return Section("Training", (figure,))


def _means(one: RoundTold) -> tuple[float, float, int] | None:
    """First, last and of how many. An update that was left out says nothing here where a report tells who was in."""
    found: list[TrainMetrics] | list[ClientContribution] = (
        list(one.report.clients) if one.report else [update.metrics for update in one.updates]
    )
    first, last = mean_of(each.loss_first for each in found), mean_of(each.loss_last for each in found)
    n_told = sum(each.loss_first is not None for each in found)
    return None if first is None or last is None else (six_digits(first), six_digits(last), n_told)
