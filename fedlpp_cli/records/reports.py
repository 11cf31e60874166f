"""What reports say: how a round was aggregated, and how models were scored."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from fedlpp_cli.records.privacy import ClientPrivacy
from fedlpp_cli.records.record import Count, Digest, PartyName, PositiveInt, Record
from fedlpp_cli.records.specs import AggregateSpec, TaskSpec

MAX_REASON: Final = 300


class ClientContribution(Record, frozen=True, kw_only=True):
    """One client's part in an aggregate.

    `weight`: how much it counts in the result; with a rule that goes value by value, whether it takes part.
    `update_norm` is before clipping, and `clip_factor` what clipping multiplied it with. `product_norm`: of the change
    of `s B A`, over all layers. `cosine`: between its update and the result. `rank`: of what it trained.
    """

    client: PartyName
    update: Digest
    n_examples: Count
    rank: PositiveInt | None = None
    weight: float
    update_norm: float
    clip_factor: float = 1.0
    product_norm: float | None = None
    cosine: float | None
    loss_first: float | None
    loss_last: float | None


class RejectedUpdate(Record, frozen=True, kw_only=True):
    """An update that was not used, with the `code` of the error.

    `client` is who it says it is from, None where it cannot be read; `update` its sha256, None too where it is far too
    large to be one.
    """

    client: PartyName | None
    update: Digest | None
    code: Annotated[str, Meta(max_length=64)]
    reason: Annotated[str, Meta(max_length=MAX_REASON)]


class AggregateReport(Record, frozen=True, kw_only=True, tag_field="about", tag="aggregate"):
    """How a round was aggregated.

    `mean_norm`: of what the rule made of the updates, without noise. `median_change`: of its absolute values, with
    noise, where a server optimizer looks at them. `withheld_norm`: of the withheld part of `s B A`, over all layers,
    where there is one. `client_privacy`: what protects whole clients; None for nothing.
    """

    aggregate: AggregateSpec
    n_clients: Count
    n_tensors: Count
    n_parameters: Count
    mean_norm: float
    step_norm: float
    median_change: float | None = None
    withheld_norm: float | None = None
    client_privacy: ClientPrivacy | None = None
    clients: tuple[ClientContribution, ...]
    rejected: tuple[RejectedUpdate, ...] = ()


Role = Literal["base", "proxy", "central", "alone", "fine-tuned", "adapter"]


class Interval(Record, frozen=True, kw_only=True):
    """Where a number lies with 95 % confidence."""

    low: float
    high: float


class EvaluateRow(Record, frozen=True, kw_only=True):
    """Scores of one model. `artifact`: the sha256 of what was scored, None for what is in none.

    `role`: whose model it is; "alone": trained by `evaluate` itself from the base on one client's data, "fine-tuned":
    from the proxy on, which `artifact` then names; "adapter" for one from elsewhere. `round`: of a role that has one.
    `intervals`: of the scores that are made of single examples. `per_class`: class to score to value, of a classifier,
    without values that are undefined; of a run's earlier rounds left out.
    """

    model: str
    role: Role = "adapter"
    round: Count | None = None
    artifact: Digest | None
    detail: str
    scores: dict[str, float]
    intervals: dict[str, Interval] = {}
    per_class: dict[str, dict[str, float]] = {}


class Gap(Record, frozen=True, kw_only=True):
    """How far the model `ahead` is ahead of `behind` in the headline score, more being better; negative: it is behind.

    `name`: "recv", central over its proxy; "ft", central over the best proxy that was fine-tuned on one client's data;
    "alone", the proxy over what a client makes alone. `master`: the sha256 of the central model's, which is of `round`.
    `interval` is that of a paired comparison.
    """

    name: Literal["recv", "ft", "alone"]
    ahead: str
    behind: str
    round: Count
    master: Digest
    value: float
    interval: Interval | None


class ProxyRecovery(Record, frozen=True, kw_only=True):
    """What the proxy has of the lead of central over base (`evaluation/recovery.py`).

    `rho` is None where central is not told from base on these examples: `gain`, its lead, may be nothing.
    """

    rho: float | None
    rho_interval: Interval | None
    gain: float
    gain_interval: Interval | None


class Spread(Record, frozen=True, kw_only=True):
    """Mean and standard deviation (n - 1) over `n` rows of one name and round: federations of several seeds."""

    model: str
    role: Role
    round: Count | None
    n: PositiveInt
    mean: dict[str, float]
    sd: dict[str, float]


class EvaluateReport(Record, frozen=True, kw_only=True, tag_field="about", tag="evaluate"):
    """Scores of several models on the same rows with the same decoding.

    `headline`: the score that models are compared by. `n_overlap`: how many of the rows are in the training data that
    was named too; None where none was. `harness`: tasks of lm-evaluation-harness that were scored too.
    """

    task: TaskSpec
    data: Digest
    n_examples: Count
    n_cut: Count
    n_overlap: Count | None = None
    generation: dict[str, int]
    headline: Literal["accuracy", "loss"] | None = None
    rows: tuple[EvaluateRow, ...]
    gaps: tuple[Gap, ...] = ()
    recovery: ProxyRecovery | None = None
    spreads: tuple[Spread, ...] = ()
