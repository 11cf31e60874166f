"""One client's local training: the adapter moves, the base stays."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fedlpp_cli.adapters.trained import trained_at
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.randomness import seed_for
from fedlpp_cli.records.methods import BOTH, FactorPlan
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.gates import LossGate, check_moved
from fedlpp_cli.training.gradient_scores import gradient_scores
from fedlpp_cli.training.gradients import WHOLE, Gradient, MeanGradient, StepGradient
from fedlpp_cli.training.sampling import Sampler, ShuffledPasses
from fedlpp_cli.training.schedule import learning_rate_factor, n_steps
from fedlpp_cli.training.shares import Share
from fedlpp_cli.training.smoothing import smooth_gradients


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step that was made: its number, from 1, of `total`; `loss` and `gradient_norm` as in `StepGradient`."""

    step: int
    total: int
    loss: float
    gradient_norm: float
    learning_rate: float
    n_tokens: int


OnStep = Callable[[StepDone], None]
# Goes along with a training: entered before the first step, told of each, left after the last or at an error.
Watch = Callable[["Training"], AbstractContextManager[OnStep]]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """How far a training is. Losses are means over the targets (tokens, or texts) of the first and the last step.

    FedProx's term is not in them: they are about the data, as those of `evaluate`, whatever `proximal_mu` is. `scores`:
    of each module after the last step, where the plan of factors asks for them.
    """

    n_steps: int
    n_tokens: int
    loss_first: float
    loss_last: float
    scores: Mapping[str, float] = field(default_factory=dict)


class Training:
    """A client's training, a step at a time.

    Between two steps everything that matters for the next one is in `adapted.parameters`, `optimizer`, `done`, torch's
    global generators, and those of its parts that are `Resumable`: put back into a new `Training` of the same arguments
    (`training/resuming.py`), it goes on as if never stopped.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        examples: Sequence[Example],
        spec: TrainSpec,
        *,
        labels: tuple[object, ...],
        gradient: Gradient | None = None,
        sampler: Sampler | None = None,
        factors: FactorPlan = BOTH,
    ) -> None:
        """Nothing moves yet.

        Args:
            adapted: the model, with its adapter at the proxy.
            task: gives batches and losses.
            examples: the client's data.
            spec: the recipe.
            labels: names of the random streams: federation, round, client.
            gradient: how a step's gradient is made; `MeanGradient` where nothing else is asked for.
            sampler: which examples a step takes; `ShuffledPasses` where nothing else is asked for.
            factors: which components a step moves.
        """
        self.adapted, self.spec, self.labels, self._factors = adapted, spec, labels, factors
        self.total = n_steps(spec, len(examples))
        self.optimizer = _optimizer(list(adapted.parameters.values()), spec)
        self.done = TrainedRun(0, 0, 0.0, 0.0)
        self._examples = examples
        self.gradient = gradient or MeanGradient(adapted, task, spec)
        self.sampler = sampler or ShuffledPasses(len(examples), spec, labels)
        self.gate = LossGate(guessing_loss(adapted, task))

    def run(self, on_step: OnStep) -> TrainedRun:
        """Make the steps that are left; the generators are as `seeded` left them, or as they were put back.

        Raises:
            GateError: a loss or a gradient that is not finite, a loss that has run away, or a first step after which
                everything is as before.
        """
        steps = self.sampler.steps_from(self.done.n_steps)
        with _training_mode(self.adapted):
            for step in range(self.done.n_steps, self.total):
                on_step(self._step(step, next(steps)))
        return self.done

    def _step(self, step: int, batches: Sequence[Sequence[int]]) -> StepDone:
        chosen = [[self._examples[i] for i in batch] for batch in batches]
        learning_rate = self.spec.learning_rate * learning_rate_factor(self.spec, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.adapted.let_train(trained_at(self.adapted.parameters, self._factors, step))
        made = self.gradient.compute(chosen)
        self.gate.check(made, step + 1)
        if self._factors.smooth_gradients:
            smooth_gradients(self.adapted.parameters)
        self._move(is_first=step == 0, norm=made.norm)
        n_tokens = sum(len(example.input_ids) for batch in chosen for example in batch)
        self.done = replace(
            self.done,
            n_steps=step + 1,
            n_tokens=self.done.n_tokens + n_tokens,
            loss_first=self.done.loss_first if step else made.loss,
            loss_last=made.loss,
            scores=self._scores(made) if step + 1 == self.total else {},
        )
        return StepDone(step + 1, self.total, made.loss, made.norm, learning_rate, n_tokens)

    def _scores(self, made: StepGradient) -> dict[str, float]:
        return gradient_scores(self.adapted.parameters, made.noise_stddev) if self._factors.scores else {}

    def _move(self, *, is_first: bool, norm: float) -> None:
        before = [parameter.detach().clone() for parameter in self.adapted.parameters.values() if is_first]
        self.optimizer.step()
        if is_first:
            check_moved(before, list(self.adapted.parameters.values()), norm)


def train(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    spec: TrainSpec,
    *,
    labels: tuple[object, ...],
    gradient: Gradient | None = None,
    sampler: Sampler | None = None,
    factors: FactorPlan = BOTH,
    share: Share = WHOLE,
    on_step: OnStep = lambda done: None,
    watches: Sequence[Watch] = (),
) -> TrainedRun:
    """Train the adapter in place, from the first step to the last; arguments and errors as `Training`.

    Order of examples and dropout depend on `labels` and nothing else. The process's generators are given back as they
    were. Watches are entered in their order; of a step the last is told first, as the innermost. Processes that `share`
    batches draw dropout of their own.
    """
    with seeded((*labels, *share.stream)), ExitStack() as entered:
        training = Training(
            adapted, task, examples, spec, labels=labels, gradient=gradient, sampler=sampler, factors=factors
        )
        inner_first = [entered.enter_context(watch(training)) for watch in watches][::-1]

        def tell(done: StepDone) -> None:
            for told in (on_step, *inner_first):
                told(done)

        return training.run(tell)


def guessing_loss(adapted: AdaptedModel, task: Task) -> float:
    """The loss of a model that holds all classes, or all tokens, for equally likely."""
    return math.log(len(task.spec.labels) or adapted.model.config.get_text_config().vocab_size)


@contextlib.contextmanager
def seeded(labels: tuple[object, ...]) -> Iterator[None]:
    """Dropout draws from torch's global generators: seed them by name, and give them back as they were."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(*labels, "dropout"))
        yield


def _optimizer(parameters: list[nn.Parameter], spec: TrainSpec) -> torch.optim.Optimizer:
    match spec.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
            )


@contextlib.contextmanager
def _training_mode(adapted: AdaptedModel) -> Iterator[None]:
    adapted.model.train()
    try:
        yield
    finally:
        adapted.model.eval()
        adapted.let_train(adapted.parameters)
