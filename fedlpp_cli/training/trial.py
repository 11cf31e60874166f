"""A few real steps on the longest examples: what a training takes, before anybody waits for it."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from msgspec.structs import replace

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.free_memory import forget_peak, peak_memory
from fedlpp_cli.records.methods import BOTH, FactorPlan
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.batching import MakeBatches
from fedlpp_cli.training.gradients import Gradient, MeanGradient
from fedlpp_cli.training.loop import Training, seeded
from fedlpp_cli.training.sampling import Indices, ShuffledPasses
from fedlpp_cli.training.schedule import n_steps
from fedlpp_cli.training.shares import Share

# Steps whose batches are looked at to learn how long batches are on the average.
_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class Trial:
    """`step_seconds`: the median step. `memory_peak`: bytes, the process's or the GPU's."""

    step_seconds: float
    memory_peak: int


class LongestFirst:
    """Every step has the longest examples. A `Sampler`."""

    def __init__(self, examples: Sequence[Example], spec: TrainSpec) -> None:
        """As many examples as a step of the recipe takes, or all."""
        order = sorted(range(len(examples)), key=lambda index: (-len(examples[index].input_ids), index))
        starts = range(0, spec.batch_size * spec.gradient_accumulation, spec.batch_size)
        # Of few examples a step takes some several times, as the real sampler does over its passes.
        self._step = [order[start : start + spec.batch_size] or order[: spec.batch_size] for start in starts]

    def steps_from(self, first: int) -> Iterator[Sequence[Indices]]:
        """As `Sampler`."""
        while True:
            yield self._step


def try_steps(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    spec: TrainSpec,
    *,
    n_trials: int,
    share: Share,
    make_batches: MakeBatches | None = None,
    gradient: Gradient | None = None,
    factors: FactorPlan = BOTH,
) -> Trial:
    """Make `n_trials` steps and one before them that is not timed, then put the adapter back.

    `gradient` is how one comes about; None for that of the mean loss. `factors` are the package's.
    The generators, too, are given back as they were. Raises as `Training.run`.
    """
    start = adapted.values()
    trial = replace(spec, steps=n_trials + 1, epochs=None)
    on_gpu = adapted.model.device.type == "cuda"
    forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    ended: list[float] = []
    try:
        with seeded(("trial",)):
            training = Training(
                adapted, task, examples, trial, labels=("trial",),
                gradient=gradient or MeanGradient(adapted, task, trial, share=share, make_batches=make_batches),
                sampler=LongestFirst(examples, trial),
                factors=factors,
            )  # fmt: skip
            training.run(lambda done: ended.append(time.perf_counter()))
    finally:
        adapted.load(start)
        for parameter in adapted.parameters.values():
            parameter.grad = None
    seconds = [after - before for before, after in pairwise(ended)]
    return Trial(statistics.median(seconds), torch.cuda.max_memory_allocated() if on_gpu else peak_memory())


def count_tokens(
    examples: Sequence[Example], spec: TrainSpec, labels: tuple[object, ...], *, padded: bool = False
) -> tuple[int, float]:
    """Tokens of a whole training, without padding, and how large its steps are against the longest.

    Of a long training the first thousand steps stand for all. With `padded` what is computed on is padding too.
    """
    lengths = [len(example.input_ids) for example in examples]
    total = n_steps(spec, len(examples))
    looked_at = min(total, _LOOKED_AT)
    n_tokens = n_computed = 0
    for step in islice(ShuffledPasses(len(examples), spec, labels).steps_from(0), looked_at):
        n_tokens += sum(lengths[index] for batch in step for index in batch)
        n_computed += sum(_computed(lengths, batch, padded=padded) for batch in step)
    slowest = next(LongestFirst(examples, spec).steps_from(0))
    longest = sum(_computed(lengths, batch, padded=padded) for batch in slowest)
    return round(n_tokens * total / looked_at), n_computed / looked_at / longest


def _computed(lengths: Sequence[int], batch: Indices, *, padded: bool) -> int:
    return len(batch) * max(lengths[index] for index in batch) if padded else sum(lengths[index] for index in batch)
