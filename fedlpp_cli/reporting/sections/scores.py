"""How good the models are: over rounds where several were scored, else side by side."""

from typing import Final

from fedlpp_cli.records.reports import EvaluateRow
from fedlpp_cli.reporting.content import Facts, Listing, Missing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Cell, Figure, Level, Plot, Point, Row, Rows, Series, Table
from fedlpp_cli.reporting.score_table import ScoreTable, score_tables
from fedlpp_cli.reporting.story import Story
from fedlpp_cli.reporting.words import counted, ends, headline_axis, short, task_text, with_interval

_TITLE: Final = "Scores"
_STYLES: Final = {"central": 0, "proxy": 1, "alone": 2, "adapter": 3, "fine-tuned": 4, "base": 6}
_EVALUATE: Final = "fedlpp evaluate RUN --data TEST --out RUN/evaluate.json"


def scores(story: Story) -> Section | Missing | None:
    """Central, proxy and base; None for a page on audits only."""
    tables = score_tables(story)
    if not tables:
        return Missing(_TITLE, _EVALUATE) if story.rounds else None
    parts: list[Part] = []
    for number, table in enumerate(tables):
        if len(tables) > 1 or not story.rounds:
            parts.append(Paragraph(f"Data {short(table.data)}, {task_text(table.task)}.", "note"))
        parts += _compared(table)
        suffix = f"-{number + 1}" if number else ""
        parts.append(_over_rounds(table, suffix) if table.is_over_rounds else _side_by_side(table, suffix))
        parts += _by_class(table)
    return Section(_TITLE, tuple(parts))


def _compared(table: ScoreTable) -> list[Part]:
    """What follows from the newest round's scores."""
    unit = "accuracy" if table.headline == "accuracy" else "less loss"
    rows: list[tuple[str, Cell]] = [
        (f"{gap.ahead} ahead of {gap.behind} by", f"{with_interval(gap.value, gap.interval)} in {unit}")
        for gap in table.gaps
    ]
    found = table.recovery
    if found is not None:
        told = with_interval(found.rho, found.rho_interval) or "none: central is not told from base on these rows"
        rows.append(("recovery ratio of the proxy", told))
    return [Facts(tuple(rows))] if rows else []


def _over_rounds(table: ScoreTable, suffix: str) -> Figure:
    series: list[Series] = []
    levels: list[Level] = []
    for role in ("central", "proxy"):
        for name, rows in _lines(table, role).items():
            points = tuple(_point(table, row) for row in rows)
            series.append(Series(name, _STYLES[role] if name == role else len(series) + 2, points))
    for role in ("base", "alone", "fine-tuned", "adapter"):
        levels += [Level(table.value(row), row.model if role != "base" else "base") for row in table.of(role)]
    return Plot(
        name=f"scores{suffix}",
        title=f"{table.headline.capitalize()} after each round",
        about=f"Scores on the same {counted(table.n_examples, 'row')}. Central is the owner's model, proxy what "
        "clients are sent of it, base the model before any training. Shaded, or between strokes: 95 % intervals, where "
        "the report has them.",
        x=Axis("round of the master; 0 is before training", "count"),
        y=Axis(headline_axis(table.headline)),
        series=tuple(series),
        levels=tuple(levels),
        table=table.listed(),
    )


def _lines(table: ScoreTable, role: str) -> dict[str, list[EvaluateRow]]:
    """Rows by what they are called: by role, or where one has several in a round, by the name of the model."""
    rows = [row for row in table.of(role) if row.round is not None]
    if len({row.round for row in rows}) == len(rows):
        return {role: rows} if rows else {}
    names = sorted({row.model for row in rows})
    return {name: [row for row in rows if row.model == name] for name in names}


def _point(table: ScoreTable, row: EvaluateRow) -> Point:
    return Point(float(row.round or 0), table.value(row), *ends(row.intervals.get(table.headline)))


def _side_by_side(table: ScoreTable, suffix: str) -> Figure:
    rows = []
    for row in sorted(table.rows, key=lambda row: (-table.better(row), row.model)):
        interval = row.intervals.get(table.headline)
        rows.append(Row(_named(row), table.value(row), *ends(interval), style=_STYLES[row.role]))
    return Rows(
        name=f"scores{suffix}",
        title=f"{table.headline.capitalize()}, best first",
        about=f"Scores on the same {counted(table.n_examples, 'row')}, with 95 % intervals where the report has them.",
        x=Axis(headline_axis(table.headline)),
        rows=tuple(rows),
        table=table.listed(),
    )


def _named(row: EvaluateRow) -> str:
    return row.model if row.round is None else f"{row.model}, round {row.round}"


def _by_class(table: ScoreTable) -> list[Part]:
    """Of the newest central and proxy."""
    newest = [row for row in (table.newest("central"), table.newest("proxy")) if row is not None and row.per_class]
    if not newest:
        return []
    names = sorted({name for row in newest for scores in row.per_class.values() for name in scores})
    classes = [name for name in table.task.labels if name in newest[0].per_class]
    cells = tuple(
        (label, *(row.per_class.get(label, {}).get(name) for row in newest for name in names)) for label in classes
    )
    head = ("class", *(f"{_named(row)}: {name.replace('_', ' ')}" for row in newest for name in names))
    return [Listing("By classes", Table(head, cells), is_folded=True)]
