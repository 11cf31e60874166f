"""How the gradient of one step comes about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.batching import MakeBatches, batch_maker
from fedlpp_cli.training.control_variates import ControlVariates
from fedlpp_cli.training.proximal import ProximalTerm
from fedlpp_cli.training.shares import Share

# Examples that go through the model together, and those of one step.
Chosen = Sequence[Example]

WHOLE: Final = Share()


@dataclass(frozen=True, slots=True)
class StepGradient:
    """What is known once the gradients are there.

    `loss`: mean over the step's targets (tokens, or texts), without any term that is not about the data. `norm`: L2
    norm of the whole gradient before clipping. `noise_stddev`: of the noise in each of its values, 0 for none.
    """

    loss: float
    norm: float
    noise_stddev: float = 0.0


class Gradient(Protocol):
    """Sets `grad` of every tensor that requires a gradient in this step, and leaves the others without."""

    def compute(self, batches: Sequence[Chosen]) -> StepGradient:
        """The gradient of a step over all `batches` together."""
        ...


class MeanGradient:
    """That of the mean loss over all targets of the step, however they are split into batches; clipped as a whole.

    FedProx's term is part of what is clipped, and no part of the loss. SCAFFOLD's corrections are added afterwards.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        spec: TrainSpec,
        *,
        share: Share = WHOLE,
        make_batches: MakeBatches | None = None,
        corrections: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Note where the adapter is now: FedProx holds it near there.

        Args:
            adapted: the model.
            task: gives losses.
            spec: `max_grad_norm` and `proximal_mu`.
            share: what of each batch is done here.
            make_batches: how examples go through the model; None for padded.
            corrections: what `ControlVariates` adds.
        """
        self._adapted, self._task, self._max_norm, self._share = adapted, task, spec.max_grad_norm, share
        self._make_batches = make_batches or batch_maker("padded", adapted, task)
        self._parameters = list(adapted.parameters.values())
        self._proximal = ProximalTerm(self._parameters, spec.proximal_mu)
        self._control = ControlVariates(adapted.parameters, corrections)

    def compute(self, batches: Sequence[Chosen]) -> StepGradient:
        """Forward and backward, a batch at a time."""
        parts = (part for examples in batches for part in self._share.parts(examples))
        collated = [batch for part in parts for batch in self._make_batches(part)]
        n_targets = self._share.sum_count(sum(self._task.n_targets(batch["labels"]) for batch in collated))
        n_missing = self._share.n_missing(len(collated))
        for parameter in self._parameters:
            parameter.grad = None
        loss = 0.0
        for batch in collated:
            labels = batch.pop("labels").to(self._adapted.model.device)
            part = self._task.loss(self._adapted.logits(batch), labels) / n_targets
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        self._keep_pace(batches[0][:1], n_missing)
        loss = self._share.sum_gradients(self._parameters, loss)
        self._proximal.add_gradient()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm or torch.inf)
        self._control.correct_gradients()
        return StepGradient(loss, norm.item())

    def _keep_pace(self, examples: Chosen, n_times: int) -> None:
        """Go through the model without moving any gradient: the others need this process's part of the base."""
        for _ in range(n_times):
            batch = self._make_batches(examples)[0]
            labels = batch.pop("labels").to(self._adapted.model.device)
            part = self._task.loss(self._adapted.logits(batch), labels)
            (0 * part).backward()  # type: ignore[no-untyped-call]
