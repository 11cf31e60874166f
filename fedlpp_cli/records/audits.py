"""What an audit says: what attackers get out of everything that was distributed."""

from typing import Annotated, Literal

from msgspec import Meta

from fedlpp_cli.records.record import Count, Digest, NonNegativeFloat, Record
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import TaskSpec

Attack = Literal["proxy", "average", "fine-tune", "pool", "intersect", "replay", "rerounding", "distill"]


class AttackRow(Record, frozen=True, kw_only=True):
    """One attacker's model, and how near it comes to the owner's.

    `attack` is the kind, `variant` tells those of one kind apart ("last half, products"), `knows` is what the attacker
    has to have, in words. `error_a`, `error_b`, `error_product`: Frobenius norm of the difference to the owner's
    factors A, factors B, and `s B A`, over that of the owner's, over all layers; None where the attack gives no such
    thing. `revealed`: share of the adapter's numbers that are known exactly. `kl`: mean KL divergence of the attacker's
    predictions from the owner's, in nats a prediction; `agreement`: how often both predict the same first. `rho`: the
    recovery ratio. A row that was not computed has its reason in `skipped`, and no numbers.
    """

    attack: Attack
    variant: str
    knows: str
    scores: dict[str, float] = {}
    rho: float | None = None
    rho_interval: Interval | None = None
    error_a: NonNegativeFloat | None = None
    error_b: NonNegativeFloat | None = None
    error_product: NonNegativeFloat | None = None
    revealed: Annotated[float, Meta(ge=0, le=1)] | None = None
    kl: float | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None
    skipped: Annotated[str, Meta(max_length=300)] | None = None


class AuditReport(Record, frozen=True, kw_only=True, tag_field="about", tag="audit"):
    """What attackers get of a federation's model, from all rounds that were distributed.

    `gain` is how far central is ahead of base in the `headline` score, more being better; with 0 in its interval there
    is nothing that an attacker could recover, and no row has a `rho`. `worst`: index of the row with the largest one.
    `bytes_down`: what one client was sent over all rounds. `max_rho`: what the owner allows.
    """

    task: TaskSpec
    data: Digest
    n_examples: Count
    n_rounds: Count
    headline: Literal["accuracy", "loss"]
    base: dict[str, float]
    proxy: dict[str, float]
    central: dict[str, float]
    gain: float
    gain_interval: Interval | None
    bytes_down: Count
    rows: tuple[AttackRow, ...]
    worst: Count | None
    max_rho: float | None
    verdict: str
