"""An attacker who asks the owner's model: distillation from its answers alone (Hinton et al. 2015, arXiv 1503.02531).

It needs a place that answers queries with probabilities, and no artifact.
"""

from collections.abc import Sequence

import torch
from torch import nn

from fedlpp_cli.leakage.agreement import Answers, divergence, predictions
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.gradients import Chosen, StepGradient


class AnswersGradient:
    """That of the mean KL divergence of the model's predictions from the answers, over a step's predictions."""

    def __init__(
        self, adapted: AdaptedModel, task: Task, examples: Sequence[Example], answers: Answers, spec: TrainSpec
    ) -> None:
        """Ready for steps over `examples`.

        Args:
            adapted: the model that learns.
            task: gives batches.
            examples: what was asked.
            answers: what was said to each of them.
            spec: `max_grad_norm`.
        """
        self._adapted, self._task, self._answers, self._max_norm = adapted, task, answers, spec.max_grad_norm
        self._index = {example: index for index, example in enumerate(examples)}
        self._parameters = list(adapted.parameters.values())

    def compute(self, batches: Sequence[Chosen]) -> StepGradient:
        """Forward and backward, a batch at a time; the loss is the mean divergence, in nats."""
        for parameter in self._parameters:
            parameter.grad = None
        wanted = {example: self._answers.of(self._index[example]) for batch in batches for example in batch}
        n = sum(len(said) for batch in batches for example in batch if (said := wanted[example]) is not None)
        loss = 0.0
        for examples in batches:
            batch = self._task.collate(examples)
            labels = batch.pop("labels")
            own = predictions(self._adapted.logits(batch), labels)
            pairs = [(wanted[example], others) for example, others in zip(examples, own, strict=True)]
            # A clone, because what was kept in inference mode cannot take part in a backward pass.
            parts = [divergence(owners.clone(), others) for owners, others in pairs if owners is not None]
            part = torch.stack(parts).sum() / n
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm or float("inf"))
        return StepGradient(loss, norm.item())
