"""What a model says with given adapter values: scores, gradients, and scores after a short training.

One base model is open at a time; adapters of a lower rank are filled up with zeros, which change nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.ranks import first_terms
from fedlpp_cli.adapters.withheld import of_one_rank
from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.evaluation.scored import Scored
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_one import OpenOne
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import LoraSpec, QuantSpec, TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.gradients import MeanGradient
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.visible_rows import only_visible

Values = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Slope:
    """`loss`: mean a target, on the rows for gradients; `gradient`: by component, float32, on the CPU."""

    loss: float
    gradient: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Change:
    """What rounding did to a slope; the fields are those of `records.plans.GroupRow`."""

    loss_increase: float
    gradient_change: float
    cosine: float
    score: float


@dataclass(slots=True, kw_only=True)
class Bench:
    """Where models are measured. `held_out`: rows to score on; those of them that gradients are taken on come first."""

    task: Task
    device: str
    batch_size: int
    held_out: Sequence[Example]
    n_gradient: int
    on_progress: Progress = silent
    _opened: OpenOne = field(init=False)

    def __post_init__(self) -> None:
        self._opened = OpenOne(self.task.spec, self.device, self.on_progress)

    def scored(self, folder: Path, lora: LoraSpec, values: Values) -> Scored:
        """What the model gets on each held-out row.

        Raises:
            GateError: a loss that is not finite.
        """
        adapted = self._load(folder, lora, values)
        return measure(adapted, self.task, self.held_out, self.batch_size, lambda done, total: None)

    def slope(self, folder: Path, lora: LoraSpec, values: Values) -> Slope:
        """Loss and gradient of the adapter on the first `n_gradient` rows, without dropout."""
        adapted = self._load(folder, lora, values)
        rows = self.held_out[: self.n_gradient]
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        made = MeanGradient(adapted, self.task, TrainSpec(steps=1, max_grad_norm=0.0)).compute(batches)
        found = {}
        for name, parameter in adapted.parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = gradient.detach().float().cpu().clone()
            parameter.grad = None
        return Slope(made.loss, found)

    def tuned(
        self,
        folder: Path,
        lora: LoraSpec,
        values: Values,
        examples: Sequence[Example],
        recipe: TrainSpec,
        visible: Values | None = None,
    ) -> Scored:
        """As `scored`, after one client has trained for a round from these values on, `visible` rows alone.

        Raises:
            GateError: a training that went wrong.
        """
        adapted = self._load(folder, lora, values)
        alone = replace(recipe, control_variates=False, proximal_mu=0.0)
        train(adapted, self.task, examples, alone, labels=("plan", "tuned"), watches=[only_visible(visible or {})])
        return measure(adapted, self.task, self.held_out, self.batch_size, lambda done, total: None)

    def _load(self, folder: Path, lora: LoraSpec, values: Values) -> AdaptedModel:
        adapted = self._opened.at(folder, lora)
        adapted.load(of_one_rank(values, lora.rank))
        return adapted


def proxy_values(
    values: Values, quantize: QuantSpec, rank: int, drawn: Collection[str] = frozenset()
) -> dict[str, Tensor]:
    """What clients would see of these values, as `quantize` makes it: float32, of that rank; what is drawn as it is."""
    found = {}
    for name, value in values.items():
        if name in drawn:
            found[name] = first_terms(name, value, rank)
            continue
        whole = round_tensor(value, quantize, name=name)
        cut = first_terms(name, whole, rank)
        found[name] = whole if cut is whole else round_tensor(cut, quantize, name=name)
    return found


def change(rounded: Slope, whole: Slope, *, gain: float, trade_off: float, rank: int) -> Change:
    """How far rounding moves loss and gradient.

    GradOT (Kang et al. 2025, ACL) looks for a compression d with a small `||H d||_1 - lambda g . d`: gradients stay,
    the loss rises. Both terms are expansions at theta, H d of `g(theta + d) - g(theta)` and g . d of
    `L(theta + d) - L(theta)`; here these differences are measured, each over what it is a share of, so that lambda has
    no unit.

    Args:
        rounded: at the proxy.
        whole: at theta.
        gain: how far training has brought the loss down, in nats; where it has not, a nat counts as one.
        trade_off: lambda.
        rank: terms beyond it have no gradient at the proxy, and are left out of both.
    """
    here, there = (_flat(slope.gradient, rank) for slope in (rounded, whole))
    size = float(there.abs().sum())
    moved = float((here - there).abs().sum()) / size if size else 0.0
    norms = float(here.norm() * there.norm())
    increase = rounded.loss - whole.loss
    return Change(
        loss_increase=increase,
        gradient_change=moved,
        cosine=float(here @ there) / norms if norms else 0.0,
        score=moved - trade_off * increase / (gain if gain > 0 else 1.0),
    )


def _flat(gradient: Mapping[str, Tensor], rank: int) -> Tensor:
    return torch.cat([first_terms(name, gradient[name], rank).reshape(-1).double() for name in sorted(gradient)])
