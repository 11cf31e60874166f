"""What differential privacy promises, and how much of it has been spent."""

from collections.abc import Sequence
from typing import Final

from fedlpp_cli.records.privacy import ClientPrivacy, ExamplePrivacy
from fedlpp_cli.reporting.content import Facts, Missing, Part, Section
from fedlpp_cli.reporting.figures import Axis, Plot, Point, Series, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.story import Story, rounds_with_reports
from fedlpp_cli.reporting.words import counted

_TITLE: Final = "Differential privacy"
_HOW: Final = (
    "this run promises none; client-train --dp-epsilon is for single rows, aggregate --client-noise-multiplier for "
    "whole clients"
)
_MAX_SERIES: Final = 6
_X: Final = Axis("round in which clients trained", "count")

OfClients = Sequence[tuple[int, ClientPrivacy]]
OfExamples = Sequence[tuple[int, str, ExamplePrivacy]]


def budget(story: Story) -> Section | Missing | None:
    """Of whole clients, from the reports; of single examples, from what updates say."""
    clients = [(one.number, report.client_privacy) for one, report in rounds_with_reports(story.rounds)]
    protected = [(number, privacy) for number, privacy in clients if privacy is not None]
    examples = [
        (one.number, update.client, update.privacy)
        for one in story.rounds
        for update in one.updates
        if update.privacy is not None
    ]
    if not protected and not examples:
        return Missing(_TITLE, _HOW) if story.rounds else None
    return Section(_TITLE, (*_of_clients(protected), *_of_examples(examples)))


def _of_clients(told: OfClients) -> list[Part]:
    if not told:
        return []
    last = told[-1][1]
    sampling = "every client may be in every round"
    if last.sampling == "poisson":
        sampling = f"each client is in a round with probability {value_text(last.sampling_rate)}"
    figure = Plot(
        name="epsilon-clients",
        title="Epsilon for whole clients",
        about=f"What all releases so far tell of any one client, at delta {last.delta:g}: adding or removing it "
        "changes the probability of whatever is seen by a factor of e to the epsilon at most, but for delta. Less is "
        "more private.",
        x=_X,
        y=Axis("epsilon (no unit)", from_zero=True),
        series=(Series("epsilon", 0, tuple(Point(float(number), one.epsilon) for number, one in told)),),
        table=Table(
            ("round", "epsilon", "delta", "noise multiplier", "clipping norm", "norm of the noise", "releases"),
            tuple(
                (
                    str(number),
                    one.epsilon,
                    one.delta,
                    one.noise_multiplier,
                    one.clip_norm,
                    one.noise_norm,
                    one.n_releases,
                )
                for number, one in told
            ),
        ),
    )
    spent = f"epsilon {value_text(last.epsilon)} at delta {last.delta:g} after {counted(last.n_releases, 'release')}"
    facts = Facts((
        ("whole clients", spent),
        ("noise", f"multiplier {last.noise_multiplier:g}, clipping norm {last.clip_norm:g}"),
        ("sampling", sampling),
    ))  # fmt: skip
    return [facts, figure]


def _of_examples(told: OfExamples) -> list[Part]:
    if not told:
        return []
    by_client: dict[str, list[Point]] = {}
    for number, client, privacy in told:
        by_client.setdefault(client, []).append(Point(float(number), privacy.epsilon))
    deltas = " or ".join(f"{delta:g}" for delta in sorted({privacy.delta for _, _, privacy in told}))
    if len(by_client) <= _MAX_SERIES:
        series = [Series(client, number, tuple(by_client[client])) for number, client in enumerate(sorted(by_client))]
    else:
        cloud = sorted((point.x, point.y) for points in by_client.values() for point in points)
        points = tuple(Point(x, y) for x, y in cloud)
        series = [Series(counted(len(by_client), "client"), 0, points, is_line=False)]
    figure = Plot(
        name="epsilon-examples",
        title="Epsilon for single rows of each client",
        about=f"What each client says that all its updates so far tell of any one of its rows, at delta {deltas}. Only "
        "the client itself can check it. Less is more private.",
        x=_X,
        y=Axis("epsilon (no unit)", from_zero=True),
        series=tuple(series),
        table=Table(
            ("round", "client", "epsilon", "delta", "noise multiplier", "sampling rate", "steps"),
            tuple(
                (str(number), client, one.epsilon, one.delta, one.noise_multiplier, one.sampling_rate, one.n_steps)
                for number, client, one in told
            ),
            text_columns=2,
        ),
    )
    return [figure]
