"""The gradient of DP-SGD (Abadi et al. 2016, arXiv 1607.00133)."""

from collections.abc import Sequence
from typing import Final

import torch

from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.privacy.secret_stream import KEY_BYTES, SecretStream
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Batch, Task
from fedlpp_cli.training.batching import MakeBatches, batch_maker
from fedlpp_cli.training.example_gradients import ExampleGradients
from fedlpp_cli.training.gradients import Chosen, StepGradient
from fedlpp_cli.training.held import Held
from fedlpp_cli.training.proximal import ProximalTerm

# The name of what is held of the stream.
KEY: Final = "key"
# Clipped sums are rounded; with this much room the rounded ones keep the bound too.
_ROOM: Final = 1 - 1e-6


class PrivateGradient:
    """Each example's gradient cut to `max_grad_norm`; their sum, with noise, over the number that is expected.

    The noise has `noise_multiplier * max_grad_norm` as its standard deviation, comes from `stream` by the number of the
    step, and is there in a step without examples too. FedProx's term is no function of the data and is added behind it.
    The recipe's own clipping is not done: every example is bounded already. What it holds for a checkpoint is the key
    of all its secret numbers, those of the sampler too: nobody else may see it.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        spec: TrainSpec,
        *,
        stream: SecretStream,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch: float,
        first_step: int = 0,
        make_batches: MakeBatches | None = None,
    ) -> None:
        """Put hooks on the model; `first_step` is the number of the first step that will be asked for.

        `make_batches`: how examples go through the model, one in a row; None for padded.

        Raises:
            ModelError: something is trained that is no linear layer.
        """
        self._adapted, self._task, self._stream = adapted, task, stream
        self._make_batches = make_batches or batch_maker("padded", adapted, task)
        self._noise, self._bound, self._expected = noise_multiplier * max_grad_norm, max_grad_norm, expected_batch
        self._proximal = ProximalTerm(list(adapted.parameters.values()), spec.proximal_mu)
        self._examples = ExampleGradients(adapted.model, adapted.parameters)
        self.step, self._loss = first_step, 0.0

    def close(self) -> None:
        """Take the hooks off the model."""
        self._examples.close()

    def compute(self, batches: Sequence[Chosen]) -> StepGradient:
        """As `Gradient`. The loss is the client's own to see; that of a step without examples is the last one."""
        moving = {name: parameter for name, parameter in self._adapted.parameters.items() if parameter.requires_grad}
        sums = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in moving.items()}
        losses = [self._add_clipped(batch, sums) for examples in batches for batch in self._make_batches(examples)]
        n_examples = sum(map(len, batches))
        self._loss = sum(losses) / n_examples if n_examples else self._loss
        square = 0.0
        for parameter in self._adapted.parameters.values():
            parameter.grad = None
        for name, parameter in moving.items():
            noise = torch.from_numpy(self._stream.gaussians(parameter.numel(), "noise", self.step, name))
            total = sums[name] + self._noise * noise.reshape(parameter.shape)
            parameter.grad = (total / self._expected).to(parameter.device, parameter.dtype)
            square += parameter.grad.double().square().sum().item()
        self._proximal.add_gradient()
        self.step += 1
        return StepGradient(self._loss, square**0.5, self._noise / self._expected)

    def held(self) -> Held:
        """The key, the number of the next step, the last loss."""
        key = torch.tensor(list(self._stream.key), dtype=torch.uint8)
        return Held({KEY: key}, {"step": self.step, "loss": self._loss})

    def put_back(self, held: Held) -> None:
        """As `Resumable`, of a gradient with the same key."""
        step, loss, values = held.values.get("step"), held.values.get("loss"), {*held.values}
        if type(step) is not int or step < 0 or not isinstance(loss, float) or values != {"step", "loss"}:
            raise ArtifactError(
                f"a checkpoint whose gradient holds {dict(held.values)!r:.80}, a step and a loss are needed"
            )
        if {*held.tensors} != {KEY} or key_of(held.tensors[KEY]) != self._stream.key:
            raise ArtifactError("a checkpoint with another key than this training draws from")
        self.step, self._loss = step, loss

    def _add_clipped(self, batch: Batch, sums: dict[str, torch.Tensor]) -> float:
        """Add a batch's clipped gradients to `sums`; the sum of its losses."""
        labels = batch.pop("labels").to(self._adapted.model.device)
        self._examples.start(len(labels))
        loss = self._task.example_losses(self._adapted.logits(batch), labels).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = self._examples.squared_norms().sqrt()
        weights = (self._bound * _ROOM / norms).clamp(max=1.0)  # a norm of 0 gives 1
        for name in sums:
            parameter = self._adapted.parameters[name]
            found = self._examples.weighted_sum(parameter, weights)
            if found is not None:
                sums[name] += found
            parameter.grad = None
        return loss.item()


def key_of(tensor: torch.Tensor) -> bytes:
    """The key that a checkpoint holds.

    Raises:
        ArtifactError: something else.
    """
    if tensor.dtype != torch.uint8 or tuple(tensor.shape) != (KEY_BYTES,):
        raise ArtifactError(
            f"a checkpoint whose key is {tensor.dtype} {tuple(tensor.shape)}, {KEY_BYTES} bytes are needed"
        )
    return bytes(tensor.tolist())
