"""Every contender of an `evaluate` over the same examples, with as few models opened as can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from fedlpp_cli.evaluation.bootstrap import rounded_interval
from fedlpp_cli.evaluation.harness import Harness, HarnessScores
from fedlpp_cli.evaluation.score import score
from fedlpp_cli.evaluation.scored import Scored
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_one import OpenOne
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.reports import EvaluateRow
from fedlpp_cli.records.specs import EvaluateSpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.contenders import Contender
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Scoring:
    """What all contenders have in common. `harness`: further tasks; None for none."""

    task: Task
    rows: Data
    spec: EvaluateSpec
    device: str
    harness: Harness | None
    on_progress: Progress

    def all(self, contenders: Sequence[Contender]) -> tuple[list[Scored], list[HarnessScores]]:
        """What each gets, in order; a model is opened once for all that share it.

        Raises:
            GateError: a model whose loss is no number, or a training that went wrong.
            ModelError: a base that cannot be opened, or has not the adapter's layers.
        """
        found: dict[int, tuple[Scored, HarnessScores]] = {}
        order = sorted(range(len(contenders)), key=lambda i: (str(contenders[i].base), str(contenders[i].lora), i))
        opened = OpenOne(self.task.spec, self.device, self.on_progress)
        for index in order:
            contender = contenders[index]
            found[index] = self._one(contender, opened.at(contender.base, contender.lora))
        in_order = [found[index] for index in range(len(contenders))]
        return [scored for scored, _ in in_order], [tasks for _, tasks in in_order]

    def _one(self, contender: Contender, adapted: AdaptedModel) -> tuple[Scored, HarnessScores]:
        adapted.load(contender.values())
        if contender.train is not None:
            contender.train(adapted, self.task, self.on_progress)
        what = f"scoring {contender.name}" + ("" if contender.round is None else f", round {contender.round}")
        scored = score(adapted, self.task, self.rows, self.spec, partial(self.on_progress, what))
        if self.harness is None:
            return scored, ({}, {})
        self.on_progress(f"{what}, harness", 0, 0)
        return scored, self.harness.score(adapted)


def with_harness(rows: Sequence[EvaluateRow], found: Sequence[HarnessScores]) -> tuple[EvaluateRow, ...]:
    """The rows, with scores and intervals of the harness's tasks behind their own."""
    return tuple(
        replace(
            row,
            scores=row.scores | {name: six_digits(value) for name, value in scores.items()},
            intervals=row.intervals | {name: rounded_interval(interval) for name, interval in intervals.items()},
        )
        for row, (scores, intervals) in zip(rows, found, strict=True)
    )
