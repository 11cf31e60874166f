"""What a plan says: settings side by side, what each costs, and what it gives away."""

from typing import Annotated, Literal

from msgspec import Meta

from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Count, Digest, NonNegativeFloat, PositiveFloat, PositiveInt, Record
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import BaseQuantSpec, Bits, Combine, QuantSpec, TaskSpec

GroupBy = Literal["none", "factor", "module", "layer"]


class PlanTargets(Record, frozen=True, kw_only=True):
    """What the owner asks for; None asks for nothing.

    `max_rho`: of the larger of two recovery ratios. `max_bytes_down`: to each client in a round. `max_loss_increase`:
    of the owner's model, against a federation without rounding.
    """

    max_rho: float | None = None
    max_bytes_down: PositiveInt | None = None
    max_loss_increase: NonNegativeFloat | None = None


class GroupRow(Record, frozen=True, kw_only=True):
    """What rounding one group of tensors does, all others being as they are.

    `loss_increase`: nats a target, on the calibration rows. `gradient_change`: ||g(p) - g(theta)||_1 over
    ||g(theta)||_1. `cosine`: of the two gradients. `score`: `gradient_change` less lambda times the loss increase as a
    share of what training gained; small is good. `n_bytes`: codes and scales of the group.
    """

    group: str
    bits: Bits
    n_bytes: Count
    loss_increase: float
    gradient_change: NonNegativeFloat
    cosine: float
    score: float


class PlanRow(Record, frozen=True, kw_only=True):
    """One setting.

    `bytes_down`, `bytes_up`: to and from each client in a round, codes and scales; a private base is part of what goes
    down. `proxy`: scores of the proxy of the plain federation's model; `tuned`: after one client has trained it for a
    round; `cosine`, `gradient_change`, `score`: as in `GroupRow`. `central`: scores of the owner's model after
    simulated rounds. `rho_newest`, `rho_mean`: recovery ratios of the proxy that would go out next, and of the mean of
    the newer half of all proxies; `rho` is the larger, with its interval. `on_front`: no other simulated row is as good
    in bytes down, the owner's loss and `rho`. What was not computed has its reason in `skipped`. With `for_comparison`
    it is none that can be chosen. With a `mask` proxies are those of one client.
    """

    label: str
    quantize: QuantSpec
    mask: MaskSpec = MaskSpec()
    rank: PositiveInt
    combine: Combine
    base_quantize: BaseQuantSpec | None = None
    for_comparison: bool = False
    bytes_down: Count
    bytes_up: Count
    proxy: dict[str, float] = {}
    tuned: dict[str, float] = {}
    loss_increase: float | None = None
    gradient_change: NonNegativeFloat | None = None
    cosine: float | None = None
    score: float | None = None
    central: dict[str, float] = {}
    rho_newest: float | None = None
    rho_mean: float | None = None
    rho: float | None = None
    rho_interval: Interval | None = None
    on_front: bool = False
    skipped: Annotated[str, Meta(max_length=300)] | None = None


class PlanReport(Record, frozen=True, kw_only=True, tag_field="about", tag="plan"):
    """What was found before a federation.

    `base`, `plain`: scores of the base alone, and of the owner's model after as many rounds without any rounding.
    `gain`: how far that is ahead of the base in the `headline` score. `groups`: what rounding single groups of tensors
    does. `chosen`: index of the row that meets `targets` at the lowest cost; None where none does.
    """

    task: TaskSpec
    data: Digest
    n_examples: Count
    n_clients: Count
    n_rounds: PositiveInt
    headline: Literal["accuracy", "loss"]
    base: dict[str, float]
    plain: dict[str, float]
    gain: float
    gain_interval: Interval | None
    trade_off: PositiveFloat
    targets: PlanTargets
    groups: tuple[GroupRow, ...]
    rows: tuple[PlanRow, ...]
    chosen: Count | None
    verdict: str
