"""Where an audit's models are scored: the same rows for all, one model open at a time, and what that takes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_modules
from fedlpp_cli.adapters.ranks import lora_of_rank
from fedlpp_cli.adapters.withheld import of_one_rank
from fedlpp_cli.evaluation.score import Look, measure
from fedlpp_cli.evaluation.scored import Scored
from fedlpp_cli.leakage.averaging import Values
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_one import OpenOne
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.specs import LoraSpec
from fedlpp_cli.tasks.task import Example, Task

# A row that is trained on costs about as much as this many rows that are scored, until a training has been timed.
_TRAINED_TO_SCORED: Final = 3.0


@dataclass(slots=True)
class Clock:
    """Begins no work that would not be done in time. `minutes` None: everything is.

    What a row takes is measured on the rows that went by, so that the first scores tell what later ones will take.
    """

    minutes: float | None
    _start_s: float = field(default_factory=lambda: time.monotonic())  # noqa: PLW0108  # a test's clock, too
    _took_s: dict[str, float] = field(default_factory=lambda: {"scored": 0.0, "trained": 0.0})
    _n_rows: dict[str, int] = field(default_factory=lambda: {"scored": 0, "trained": 0})

    @contextmanager
    def timing(self, kind: str, n_rows: int) -> Iterator[None]:
        """Within, so many rows are "scored" or "trained"."""
        start_s = time.monotonic()
        yield
        self._took_s[kind] += time.monotonic() - start_s
        self._n_rows[kind] += n_rows

    def refusal(self, *, n_scored: int, n_trained: int) -> str | None:
        """Why this is not begun; None where there is time for it."""
        if self.minutes is None:
            return None
        needed = (n_scored * self._seconds("scored") + n_trained * self._seconds("trained")) / 60
        left = self.minutes - (time.monotonic() - self._start_s) / 60
        if needed <= left:
            return None
        return f"--budget: it would take about {needed:.1f} minutes, {max(0.0, left):.1f} of {self.minutes:g} are left"

    def _seconds(self, kind: str) -> float:
        """A row's."""
        if self._n_rows[kind]:
            return self._took_s[kind] / self._n_rows[kind]
        return _TRAINED_TO_SCORED * self._seconds("scored") if kind == "trained" else 0.0


@dataclass(slots=True)
class Stage:
    """Sets an adapter on a base and scores it.

    `lora`: of the federation; an attacker's may have a higher rank. `rows`: the held-out ones.
    """

    task: Task
    lora: LoraSpec
    rows: Sequence[Example]
    batch_size: int
    device: str
    clock: Clock
    on_progress: Progress
    _opened: OpenOne = field(init=False)

    def __post_init__(self) -> None:
        self._opened = OpenOne(self.task.spec, self.device, self.on_progress)

    def at(self, base: Path, values: Values) -> AdaptedModel:
        """The model with that adapter, of whatever rank; what was open before is gone if it is another."""
        rank = max([self.lora.rank, *(len(values[factor_a(module)]) for module in factor_modules(values))])
        adapted = self._opened.at(base, lora_of_rank(self.lora, rank))
        adapted.load(of_one_rank(values, rank))
        return adapted

    def score(self, base: Path, values: Mapping[str, Tensor], name: str, *, look: Look | None = None) -> Scored:
        """What a model gets on each held-out row.

        Raises:
            GateError: a loss that is not finite.
        """
        return self.score_on(self.rows, self.at(base, values), name, look=look)

    def score_on(
        self, rows: Sequence[Example], adapted: AdaptedModel, name: str, *, look: Look | None = None
    ) -> Scored:
        """What the model that is open gets on other rows. Raises as `score`."""
        on_batch: Callable[[int, int], None] = partial(self.on_progress, f"scoring {name}")
        with self.clock.timing("scored", len(rows)):
            return measure(adapted, self.task, rows, self.batch_size, on_batch, look or (lambda *_: None))
