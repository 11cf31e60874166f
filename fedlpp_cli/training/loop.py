"""One client's local training: the adapter moves, the base stays."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.randomness import seed_for
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.control_variates import ControlVariates
from fedlpp_cli.training.gates import check_loss
from fedlpp_cli.training.proximal import ProximalTerm
from fedlpp_cli.training.schedule import batches, learning_rate_factor, n_steps

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """How a training went. Losses are means over the targets (tokens, or texts) of the first and the last step.

    FedProx's term is not in them: they are about the data, as those of `evaluate`, whatever `proximal_mu` is.
    """

    n_steps: int
    n_tokens: int
    loss_first: float
    loss_last: float


def train(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    spec: TrainSpec,
    *,
    labels: tuple[object, ...],
    corrections: Mapping[str, Tensor] | None = None,
    on_step: OnStep = lambda step, total, loss: None,
) -> TrainedRun:
    """Train the adapter in place.

    The gradient of a step is that of the mean loss over all targets of its batches, however they are split by
    `gradient_accumulation`. Order of examples and dropout depend on `labels` and nothing else.

    Args:
        adapted: the model, with its adapter at the proxy.
        task: gives batches and losses.
        examples: the client's data.
        spec: the recipe.
        labels: names of the random streams: federation, round, client.
        corrections: what SCAFFOLD adds to each gradient, float32 by component; None for nothing.
        on_step: called after each step with step (from 1), total, mean loss.

    Raises:
        GateError: a loss that is not finite.
    """
    parameters = list(adapted.parameters.values())
    optimizer, proximal = _optimizer(parameters, spec), ProximalTerm(parameters, spec.proximal_mu)
    control = ControlVariates(adapted.parameters, corrections or {})
    total = n_steps(spec, len(examples))
    stream = batches(len(examples), spec.batch_size, *labels)
    losses: list[float] = []
    n_tokens = 0
    with _seeded(labels), _training_mode(adapted.model):
        for step in range(total):
            chosen = [[examples[i] for i in next(stream)] for _ in range(spec.gradient_accumulation)]
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * learning_rate_factor(spec, step, total)
            losses.append(_step(adapted, task, chosen, optimizer, proximal, control, spec.max_grad_norm))
            n_tokens += sum(len(example.input_ids) for batch in chosen for example in batch)
            check_loss(losses[-1], step + 1)
            on_step(step + 1, total, losses[-1])
    return TrainedRun(total, n_tokens, losses[0], losses[-1])


def _step(
    adapted: AdaptedModel,
    task: Task,
    chosen: Sequence[Sequence[Example]],
    optimizer: torch.optim.Optimizer,
    proximal: ProximalTerm,
    control: ControlVariates,
    max_grad_norm: float,
) -> float:
    """One optimizer step; the mean loss over its targets, without the proximal term."""
    collated = [task.collate(examples) for examples in chosen]
    n_targets = sum(task.n_targets(batch["labels"]) for batch in collated)
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in collated:
        labels = batch.pop("labels").to(adapted.model.device)
        part = task.loss(adapted.logits(batch), labels) / n_targets
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
    proximal.add_gradient()
    if max_grad_norm:
        nn.utils.clip_grad_norm_(list(adapted.parameters.values()), max_grad_norm)
    control.correct_gradients()
    optimizer.step()
    return loss


def _optimizer(parameters: list[nn.Parameter], spec: TrainSpec) -> torch.optim.Optimizer:
    match spec.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
            )


@contextlib.contextmanager
def _seeded(labels: tuple[object, ...]) -> Iterator[None]:
    """Dropout draws from torch's global generator: seed it by name, and give it back as it was."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(*labels, "dropout"))
        yield


@contextlib.contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()
