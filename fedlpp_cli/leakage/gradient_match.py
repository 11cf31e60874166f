"""How well rows explain an update: the gradient that they would have, held against what the update moved.

Deep Leakage from Gradients (Zhu et al. 2019, arXiv 1906.08935), with the cosine of Geiping et al. 2020 (arXiv
2003.14053), of each factor by itself as in LAMP (Balunovic et al. 2022, arXiv 2202.08827), so that small ones count.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import Optimizer
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.example_gradients import ExampleGradients

# A component that moved less than this much of its largest number was rounded, and not trained.
_ROUNDING: Final = 2.0**-20


class GradientMatch:
    """What an update did to the factors, and which rows would do the same; `close` it when done.

    `n_trials`: how many gradients of rows were computed.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        start: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        *,
        modules: Sequence[str],
        optimizer: Optimizer,
        bound: float | None,
        batch_size: int,
    ) -> None:
        """Set the model to the proxy, and watch its factors.

        Args:
            adapted: the model.
            task: gives losses.
            start: the proxy.
            moved: what training moved each component by, weight decay taken back.
            modules: those with factors.
            optimizer: AdamW's first steps show the signs of a gradient, SGD's the gradient.
            bound: L2 norm that each row's gradient was cut to; None where none was.
            batch_size: rows that go through the model at once.
        """
        # Where B is zero, as in the first round, A has no gradient.
        named = ((factor_a(module), factor_b(module)) for module in modules)
        names = [name for a, b in named for name in ((a, b) if start[b].any() else (b,))]
        self._names = [name for name in names if _has_moved(moved[name], start[name])]
        self._adapted, self._task, self._batch_size = adapted, task, batch_size
        self._signs, self._bound, self.n_trials = optimizer == "adamw", bound, 0
        adapted.load(start)
        target = [-moved[name].flatten().to(adapted.model.device) for name in self._names]
        self._target = [part / part.norm() for part in target]
        self._examples = ExampleGradients(adapted.model, {name: adapted.parameters[name] for name in self._names})

    @property
    def says_something(self) -> bool:
        """Whether any factor has moved."""
        return bool(self._names)

    def close(self) -> None:
        """Take the hooks off."""
        self._examples.close()

    def gradients(self, rows: Sequence[Example]) -> Tensor:
        """What each row adds to the gradient, up to a factor that is the same for all, float32 `(rows, n)`."""
        starts = range(0, len(rows), self._batch_size)
        return torch.cat([self._of_batch(rows[start : start + self._batch_size]) for start in starts])

    def cosines(self, gradients: Tensor) -> Tensor:
        """The mean over factors of their cosines with the update, `(..., n)` to float64 `(...)` on the CPU."""
        total = torch.zeros(gradients.shape[:-1], device=gradients.device)
        for part, target in zip(
            torch.split(gradients, [len(one) for one in self._target], -1), self._target, strict=True
        ):
            told = part.sign() if self._signs else part
            total += told @ target / told.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        return total.double().cpu() / len(self._target)

    def _of_batch(self, rows: Sequence[Example]) -> Tensor:
        self.n_trials += len(rows)
        batch = self._task.collate(rows)
        labels = batch.pop("labels").to(self._adapted.model.device)
        self._examples.start(len(rows))
        logits = self._adapted.logits(batch)
        # With a bound each row's mean is cut; without, every target counts the same.
        is_bounded = self._bound is not None
        loss = self._task.example_losses(logits, labels).sum() if is_bounded else self._task.loss(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        parts = []
        for name in self._names:
            parameter = self._adapted.parameters[name]
            part = self._examples.of_examples(parameter)
            parts.append(parameter.new_zeros(len(rows), parameter.numel()) if part is None else part.flatten(1))
        for parameter in self._adapted.parameters.values():
            parameter.grad = None
        found = torch.cat(parts, 1)
        if self._bound is None:
            return found
        weights: Tensor = (self._bound / found.norm(dim=1, keepdim=True)).clamp(max=1.0)
        return found * weights


def _has_moved(moved: Tensor, start: Tensor) -> bool:
    return bool(moved.abs().max() > _ROUNDING * start.abs().max())
