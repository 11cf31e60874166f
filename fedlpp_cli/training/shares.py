"""Which examples of a batch go through the model here, and together; and the sum over all who have the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from fedlpp_cli.tasks.task import Example


@dataclass(frozen=True, slots=True)
class Share:
    """One of `n_processes` that train together, which takes `micro_batch` examples at once, or all that are its.

    The gradient of a step is a sum over the step's targets: it is the same however the targets are shared out, but for
    the rounding of sums, and for dropout, which draws anew for each part. Where the base is divided among the
    processes, all go through it equally often.
    """

    micro_batch: int | None = None
    rank: int = 0
    n_processes: int = 1
    is_base_divided: bool = False

    @property
    def stream(self) -> tuple[object, ...]:
        """What names this process's dropout beside the training's own labels; the first one draws as if alone."""
        return ("process", self.rank) if self.rank else ()

    def parts(self, examples: Sequence[Example]) -> Iterable[Sequence[Example]]:
        """This process's examples of a batch, as they go through the model; none where the batch is too short."""
        own = examples[self.rank :: self.n_processes]
        at_once = self.micro_batch or max(1, len(own))
        return (own[start : start + at_once] for start in range(0, len(own), at_once))

    def sum_count(self, number: int) -> int:
        """The sum of what all processes have counted; all must ask."""
        if self.n_processes == 1:
            return number
        total = torch.tensor([number], device=_device())
        distributed.all_reduce(total)
        return int(total.item())

    def n_missing(self, n_batches: int) -> int:
        """How often this process, with so many batches of its own, goes through a divided base for others; all ask."""
        if not self.is_base_divided:
            return 0
        most = torch.tensor([n_batches], device=_device())
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most.item()) - n_batches

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Set every `grad` to the sum of all processes', and return the sum of their losses; all must ask.

        A parameter that no process has a gradient of, as a layer that the loss does not see, has none afterwards.
        """
        if self.n_processes == 1:
            return loss
        known = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
        flat = torch.cat([_flat(parameter).to(_device()) for parameter in parameters])
        packed = torch.cat([flat, known.to(_device()), torch.tensor([loss], device=_device())])
        distributed.all_reduce(packed)
        counts = packed[len(flat) : -1].tolist()
        parts = torch.split(packed[: len(flat)], [parameter.numel() for parameter in parameters])
        for parameter, part, count in zip(parameters, parts, counts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.device) if count else None
        return float(packed[-1])


def _flat(parameter: nn.Parameter) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.reshape(-1)


def _device() -> torch.device:
    """Where the processes' backend sums."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
