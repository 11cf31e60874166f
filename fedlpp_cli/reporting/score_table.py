"""Scores of models that were evaluated on the same rows, from one report or several."""

from dataclasses import dataclass

from fedlpp_cli.records.reports import EvaluateReport, EvaluateRow, Gap, ProxyRecovery
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.reporting.figures import Table
from fedlpp_cli.reporting.story import Story
from fedlpp_cli.reporting.words import headline_of, with_interval


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Rows on one set of data; a model that stands in several reports is there once.

    `gaps` and `recovery`: of the newest central model, from the report that has it; none where no report tells.
    """

    data: str
    task: TaskSpec
    n_examples: int
    rows: tuple[EvaluateRow, ...]
    gaps: tuple[Gap, ...] = ()
    recovery: ProxyRecovery | None = None

    @property
    def headline(self) -> str:
        """The score that models are compared by."""
        return headline_of(self.rows[0].scores)

    def value(self, row: EvaluateRow) -> float:
        """Its headline score."""
        return row.scores[self.headline]

    def better(self, row: EvaluateRow) -> float:
        """Its headline score, with the sign that makes more better."""
        return self.value(row) if self.headline == "accuracy" else -self.value(row)

    def of(self, role: str) -> list[EvaluateRow]:
        """Rows of a role, by rounds."""
        return sorted((row for row in self.rows if row.role == role), key=lambda row: (row.round or 0, row.model))

    def newest(self, role: str) -> EvaluateRow | None:
        """The row of the last round."""
        rows = self.of(role)
        return rows[-1] if rows else None

    @property
    def is_over_rounds(self) -> bool:
        """Whether a role was scored in several rounds."""
        return any(len({row.round for row in self.of(role)}) > 1 for role in ("central", "proxy"))

    def listed(self) -> Table:
        """Everything that was scored."""
        names = sorted({name for row in self.rows for name in row.scores})
        names.sort(key=lambda name: name != self.headline)
        rows = tuple(
            (row.model, row.detail, *(with_interval(row.scores.get(name), row.intervals.get(name)) for name in names))
            for row in self.rows
        )
        return Table(("model", "", *(name.replace("_", " ") for name in names)), rows, text_columns=2)


def score_tables(story: Story) -> list[ScoreTable]:
    """One for each set of data, in the order in which reports name them; those without any score are left out."""
    groups: dict[tuple[str, TaskSpec], list[EvaluateReport]] = {}
    for _, report in story.of(EvaluateReport):
        groups.setdefault((report.data, report.task), []).append(report)
    tables = []
    for (data, task), reports in groups.items():
        rows: dict[tuple[object, ...], EvaluateRow] = {}
        for row in (row for report in reports for row in report.rows):
            what = row.artifact or (row.model if row.role != "base" else None)
            rows.setdefault((row.role, row.round, what, row.detail), row)
        name = next((headline_of(row.scores) for row in rows.values()), "")
        scored = tuple(row for row in rows.values() if name in row.scores)
        if scored:
            newest = max(reports, key=_newest_round)
            number = _newest_round(newest)
            gaps = tuple(gap for gap in newest.gaps if gap.round == number)
            tables.append(ScoreTable(data, task, reports[0].n_examples, scored, gaps, newest.recovery))
    return tables


def _newest_round(report: EvaluateReport) -> int:
    return max((row.round or 0 for row in report.rows if row.role == "central"), default=-1)
