"""What a method is: parts that one can replace. What it does not replace is as in FedLPP.

A client knows no methods. Its package says which factors a step trains (`records/methods.py`); a method is what the
owner makes that plan by, and how it finishes a round. Loads no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import BOTH, FactorPlan, FactorScores, MethodSpec
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.specs import AggregateSpec, LoraSpec, QuantSpec, TrainSpec

if TYPE_CHECKING:
    from torch import Tensor

Finish = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a step, or a whole federation, is asked to do; None for what is not asked there."""

    lora: LoraSpec | None = None
    quantize: QuantSpec | None = None
    mask: MaskSpec | None = None
    train: TrainSpec | None = None
    update: QuantSpec | None = None
    aggregate: AggregateSpec | None = None
    options: MethodSpec | None = None

    @property
    def is_masked(self) -> bool:
        """Whether rows of the factors B are hidden."""
        return self.mask is not None and self.mask.hides


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came in: the round's plan, of each update that is used its scores, and how updates become one."""

    plan: FactorPlan
    scores: Sequence[Mapping[str, float]]
    aggregate: AggregateSpec


def _keep_no_scores(master: MasterSpec, answers: Answers) -> dict[str, FactorScores]:
    return {}


def _refuse_nothing(asked: Asked) -> str | None:
    return None


def _train_both(master: MasterSpec, round_number: int) -> FactorPlan:
    return BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the table.

    For people: `paper`; what travels `down` to each client and `up` again in a round, in factors; what is `private`,
    and stays at the owner's; the `cost` of a round. `plan`: what a round trains, by what the owner knows and the number
    of the round, from 0. `refuse`: the reason why something cannot be had with this method; None where it can.
    `draws_a`: A never moves, and clients draw it, as `init` did. `finish`: what becomes of the factors B
    `(out_features, rank)` and A `(rank, in_features)` of a module, float64, once a round is folded. `next_scores`: the
    owner's state after a round, by layer. `options`: fields of `MethodSpec` that mean something. `quantize`, `mask`:
    how the adapter is rounded, and what clients do not get, where nobody says otherwise.
    """

    name: str
    paper: str
    down: str
    up: str
    private: str
    cost: str
    plan: Callable[[MasterSpec, int], FactorPlan] = _train_both
    refuse: Callable[[Asked], str | None] = _refuse_nothing
    draws_a: bool = False
    finish: Finish | None = None
    next_scores: Callable[[MasterSpec, Answers], dict[str, FactorScores]] = _keep_no_scores
    options: tuple[str, ...] = ()
    quantize: QuantSpec = field(default_factory=QuantSpec)
    mask: MaskSpec = field(default_factory=MaskSpec)

    @property
    def defaults(self) -> dict[str, dict[str, object]]:
        """What sections of the federation file say where they are silent."""
        return {"quantize": to_plain(self.quantize), "mask": to_plain(self.mask)}

    def rounding(self, spec: QuantSpec) -> QuantSpec:
        """That rounding with the method's own levels: for those who round a master to look at it.

        Raises:
            UsageError: there are none of that width.
        """
        try:
            return replace(spec, codebook=self.quantize.codebook) if spec.is_rounded else spec
        except ValueError as problem:
            raise UsageError(f"method {self.name}: {problem}") from None

    def check(self, asked: Asked) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: with the reason.
        """
        for name, value in to_plain(asked.options or MethodSpec()).items():
            if value is not None and name not in self.options:
                raise UsageError(f"method {self.name}: {name} {value} means nothing to it")
        reason = self.refuse(asked)
        if reason is not None:
            raise UsageError(f"method {self.name}: {reason}")


def refuse_for_one_factor(asked: Asked) -> str | None:
    """What no method can have that trains one factor of a module in a round."""
    if asked.lora is not None and not asked.lora.target_modules:
        return "it is about the factors of an adapter, and this one has none"
    if asked.train is not None and asked.train.control_variates:
        return "control variates go with rounds that train both factors"
    if asked.aggregate is not None and asked.aggregate.combine != "factors":
        return (
            f"combine {asked.aggregate.combine!r} makes both factors anew; where one of them stays, "
            "the mean of factors is the mean of products already"
        )
    return None
