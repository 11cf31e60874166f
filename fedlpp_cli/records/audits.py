"""What an audit says: what attackers get out of everything that was distributed."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from fedlpp_cli.records.record import Count, Digest, NonNegativeFloat, PositiveInt, Record
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import TaskSpec

Attack = Literal["proxy", "average", "fine-tune", "pool", "intersect", "replay", "rerounding", "distill"]
ATTACKS: Final[tuple[Attack, ...]] = get_args(Attack)
# What a single client, or whoever can read what is handed out, is able to do.
COUNTED: Final[tuple[Attack, ...]] = ("proxy", "average", "fine-tune", "intersect")


class AuditSpec(Record, frozen=True, kw_only=True):
    """What an audit tries, and what it judges by.

    `attacks`: those that are tried; `counted`: those that the verdict and `max_rho` look at. `n_epochs`: passes that an
    attacker trains at most; `n_queries`: answers of the owner's model that a distillation may have. `budget`: minutes
    after which no more costly attack is begun, None for no limit. `max_rho`: the recovery ratio that the owner allows.
    """

    attacks: tuple[Attack, ...] = ATTACKS
    counted: tuple[Attack, ...] = COUNTED
    n_epochs: PositiveInt = 5
    n_queries: PositiveInt = 256
    budget: NonNegativeFloat | None = None
    max_rho: float | None = None


class AttackRow(Record, frozen=True, kw_only=True):
    """One attacker's model, and how near it comes to the owner's.

    `attack` is the kind, `variant` tells those of one kind apart ("last half, products"), `knows` is what the attacker
    has to have, in words. `error_a`, `error_b`, `error_product`: Frobenius norm of the difference to the owner's
    factors A, factors B, and `s B A`, over that of the owner's, over all layers; None where the attack gives no such
    thing. `revealed`: share of the adapter's numbers that are known exactly. `kl`: mean KL divergence of the attacker's
    predictions from the owner's, in nats a prediction; `agreement`: how often both predict the same first. `rho`: the
    recovery ratio. `counts`: whether the verdict looks at it. A row that was not computed has its reason in `skipped`,
    and no numbers.
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
    counts: bool = True
    skipped: Annotated[str, Meta(max_length=300)] | None = None


class AuditReport(Record, frozen=True, kw_only=True, tag_field="about", tag="audit"):
    """What attackers get of a federation's model, from all rounds that were distributed.

    `gain` is how far central is ahead of base in the `headline` score, more being better; with 0 in its interval there
    is nothing that an attacker could recover, and no row has a `rho`. `n_rounds`: how many proxies the attackers have,
    that of the newest master among them. `n_compared`: of how many examples, the first ones, `kl` and `agreement` are.
    `worst`: index of the row with the largest `rho` among those that count. `bytes_down`: what one client was sent over
    all rounds. `max_rho`: what the owner allows. `warnings`: what makes these numbers less than they seem.
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
    n_compared: Count
    warnings: tuple[str, ...] = ()
