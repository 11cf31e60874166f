"""Tasks of lm-evaluation-harness (Gao et al. 2024, EleutherAI), run on a model that is open already."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedlpp_cli.errors import InputError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.reports import Interval

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HarnessScores = tuple[dict[str, float], dict[str, Interval]]

_INSTALL: Final = "pip install 'fedlpp[harness]'"
_Z: Final = 1.96  # standard errors on each side of a 95 % interval


class Harness:
    """Tasks by name; their data is read anew for each model."""

    def __init__(
        self, names: Sequence[str], *, folder: Path | None, tokenizer: "PreTrainedTokenizerBase", batch_size: int,
        max_length: int, limit: int | None,
    ) -> None:  # fmt: skip
        """Look the tasks up.

        Args:
            names: of tasks or groups of tasks.
            folder: with YAML files of more tasks; None for those of the package.
            tokenizer: the model's.
            batch_size: requests that go through the model together.
            max_length: tokens of a request that are used.
            limit: take only the first examples of each task.

        Raises:
            UsageError: lm_eval is not installed, or has no such task.
            InputError: no such folder.
        """
        try:
            with _quietly():
                from lm_eval.tasks import TaskManager
        except ImportError:
            raise UsageError("--harness needs the package lm_eval", hint=_INSTALL) from None
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder with tasks")
        with _quietly():
            self._tasks = TaskManager(include_path=None if folder is None else str(folder))
            unknown = [name for name in names if not self._tasks.match_tasks([name])]
        if unknown or not names:
            named = repr(unknown[0]) if unknown else "of no name"
            raise UsageError(
                f"--harness: lm_eval has no task {named}",
                hint="lm-eval ls tasks lists them; --harness-tasks",
            )
        self._names, self._tokenizer, self._batch_size = list(names), tokenizer, batch_size
        self._max_length, self._limit = max_length, limit

    def score(self, adapted: AdaptedModel) -> HarnessScores:
        """Name to score, such as "arc_easy acc", and the intervals that follow from lm_eval's standard errors.

        Raises:
            InputError: a task whose data cannot be read.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        with _quietly():
            try:
                model = HFLM(
                    pretrained=adapted.model, backend="causal", tokenizer=self._tokenizer, batch_size=self._batch_size,
                    max_length=self._max_length,
                )  # fmt: skip
                # Seeds None: torch's and numpy's generators are ours.
                found = lm_eval.simple_evaluate(
                    model, tasks=self._names, task_manager=self._tasks, limit=self._limit, log_samples=False,
                    bootstrap_iters=1000, random_seed=None, numpy_random_seed=None, torch_random_seed=None,
                )  # fmt: skip
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                said = str(error).partition("\n")[0] or type(error).__name__
                raise InputError(f"--harness {','.join(self._names)}: lm_eval cannot run it ({said})") from error
        return _scores(found["results"])


def _scores(results: Mapping[str, Mapping[str, Any]]) -> HarnessScores:
    """lm_eval's keys are "acc,none", "acc_stderr,none", "exact_match,strict-match"."""
    scores: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = f"{task} {metric}" + ("" if kind == "none" else f" {kind}")
            scores[name] = float(value)
            error = values.get(f"{metric}_stderr,{kind}")
            if isinstance(error, int | float):
                intervals[name] = Interval(low=value - _Z * error, high=value + _Z * error)
    return scores, intervals


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without bars, and without what lm_eval and datasets have to say."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
