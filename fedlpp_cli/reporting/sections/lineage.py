"""What was made from what, and what it took to send it."""

from fedlpp_cli.reporting.content import Listing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Plot, Point, Series, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.story import Story, rounds_with_reports
from fedlpp_cli.reporting.words import short


def lineage(story: Story) -> Section | None:
    """Rounds by their digests, the updates behind each master, and the reports that this page is made of."""
    parts: list[Part] = []
    if story.rounds:
        parts.append(Paragraph(
            "Artifacts are named by the sha256 of their bytes, here by its first twelve digits. Each master names the "
            "one before it, which was checked for this page; fedlpp verify checks all the rest."
        ))  # fmt: skip
        parts.append(Listing("Rounds", _rounds(story)))
        if len(story.bytes_until) > 1:
            parts.append(_bytes(story))
        parts.append(Listing("Updates behind the masters", _updates(story), is_folded=True))
    if story.reports:
        parts.append(Listing("Reports on this page", _reports(story)))
    return Section("Lineage", tuple(parts)) if parts else None


def _rounds(story: Story) -> Table:
    rows = tuple(
        (
            str(one.number), short(one.master), short(one.package), one.bits, len(one.updates) or None,
            sum(update.metrics.n_examples for update in one.updates) or None,
            *(None if size is None else value_text(size, "bytes") for size in (one.bytes_down, one.bytes_up)),
        )
        for one in story.rounds
    )  # fmt: skip
    head = ("round", "master", "package", "bits", "updates", "examples", "down to each client", "up from each client")
    return Table(head, rows, text_columns=4)


def _bytes(story: Story) -> Plot:
    n_up = {one.number: one.bytes_up for one in story.rounds}
    down, up, total = [], [], 0
    for number, n_down in sorted(story.bytes_until.items()):
        total += n_up[number] or 0
        down.append(Point(float(number), float(n_down)))
        up.append(Point(float(number), float(total)))
    return Plot(
        name="traffic",
        title="What travels for one client",
        about="Bytes of all packages to a client up to each round, and of its updates, the largest of each round.",
        x=Axis("round", "count"),
        y=Axis("bytes so far", "bytes"),
        series=(Series("down", 0, tuple(down)), Series("up", 1, tuple(up))),
        table=Table(
            ("round", "down so far", "up so far"),
            tuple(
                (f"{a.x:.0f}", value_text(a.y, "bytes"), value_text(b.y, "bytes"))
                for a, b in zip(down, up, strict=True)
            ),
        ),
    )


def _updates(story: Story) -> Table:
    rows = tuple(
        (str(one.number), client.client, short(client.update), short(one.package), client.n_examples, client.weight)
        for one, report in rounds_with_reports(story.rounds)
        for client in report.clients
    )
    return Table(("round", "client", "update", "trained on package", "examples", "weight"), rows, text_columns=4)


def _reports(story: Story) -> Table:
    rows = tuple(
        (one.name, str(one.header.spec.__struct_config__.tag), short(one.sha256), one.header.producer)
        for one in story.reports
    )
    return Table(("report", "about", "sha256", "made by"), rows, text_columns=4)
