"""An attacker's model next to the owner's: scores, recovery ratio, distances of weights and of predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from fedlpp_cli.evaluation.bootstrap import rounded_interval
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Scored, goodness, mean_scores
from fedlpp_cli.leakage.agreement import Agreement, Answers
from fedlpp_cli.leakage.averaging import Values
from fedlpp_cli.leakage.closeness import closeness
from fedlpp_cli.leakage.knowledge import Idea
from fedlpp_cli.records.audits import AttackRow
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import QuantSpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.audit_stage import Stage

# A scale in fp16 tells the largest weight of its block up to this part of it.
_HALF_PRECISION: Final = 2.0**-11


@dataclass(frozen=True, slots=True)
class Tried:
    """An attacker's adapter, and what the model with it gets."""

    values: Values
    scored: Scored
    agreement: Agreement

    @property
    def goodness(self) -> float:
        """The headline score, more being better."""
        return goodness(self.scored)


@dataclass(frozen=True, slots=True)
class Judge:
    """What attackers' models are held against.

    `seen`: the base as clients have it. `base`, `central`: what base and owner's model got. `factors`: the owner's
    components; `owner`: with what it withholds, the same where that is nothing. `tolerance`: up to which part of itself
    a number counts as known exactly. `public`: components that clients draw, and everybody has.
    """

    stage: Stage
    seen: Path
    base: Scored
    central: Scored
    answers: Answers
    factors: Values
    owner: Values
    tolerance: float
    public: frozenset[str] = frozenset()

    def attempt(self, values: Mapping[str, Tensor], name: str) -> Tried:
        """Score an adapter on the base that attackers have.

        Raises:
            GateError: a loss that is not finite.
        """
        agreement = Agreement(self.answers)
        return Tried(values, self.stage.score(self.seen, values, name, look=agreement.look), agreement)

    def row(self, idea: Idea, tried: Tried) -> AttackRow:
        """All that is said of it."""
        found = recovery(tried.scored, base=self.base, central=self.central)
        near = closeness(tried.values, self.factors, tolerance=self.tolerance, public=self.public)
        whole = near if self.owner is self.factors else closeness(tried.values, self.owner)
        return AttackRow(
            attack=idea.attack,
            variant=idea.variant,
            knows=idea.knows,
            counts=idea.counts,
            scores={name: six_digits(value) for name, value in mean_scores(tried.scored).items()},
            rho=_short(found.rho),
            rho_interval=short_interval(found.interval),
            error_a=_short(near.error_a),
            error_b=_short(near.error_b),
            error_product=_short(whole.error_product),
            revealed=_short(near.revealed),
            kl=_short(tried.agreement.kl),
            agreement=_short(tried.agreement.agreement),
        )

    def at_once(self, idea: Idea, values: Mapping[str, Tensor]) -> tuple[Tried, AttackRow]:
        """`attempt` and `row`."""
        tried = self.attempt(values, f"{idea.attack}, {idea.variant}")
        return tried, self.row(idea, tried)


def tolerance_of(quantize: QuantSpec) -> float:
    """Up to which part of itself a number counts as exactly known: what scales in fp16 leave of the largest weights."""
    return _HALF_PRECISION if quantize.is_rounded and quantize.scale == "fp16" else 0.0


def short_interval(interval: Interval | None) -> Interval | None:
    """With six digits."""
    return None if interval is None else rounded_interval(interval)


def _short(value: float | None) -> float | None:
    return None if value is None else six_digits(value)
