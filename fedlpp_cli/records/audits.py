"""What an audit says: what attackers get out of everything that was distributed."""

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from fedlpp_cli.records.privacy import Delta, ExamplePrivacy
from fedlpp_cli.records.record import (
    Count,
    Digest,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Record,
)
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


Skipped = Annotated[str, Meta(max_length=300)]


class TokenRecovery(Record, frozen=True, kw_only=True):
    """Which of the vocabulary's tokens are in the rows, told from the update.

    `n_tokens`: how many different ones the rows have, special ones aside, of `n_candidates`. The other shares are of
    them, among as many as come first: by what guessing gets, at random (`by_chance`) or by how frequent tokens are in
    other rows (`by_frequency`); by the span of the first adapted layer's update (`by_span`); by how far a language
    model's tokens rise on random texts (`by_rise`). The `auc` is of the whole ranking. `is_exact`: the update has
    `rank` directions in that layer and room for more, so it excludes what is not of them; elsewhere it is full, and its
    span tells little. A span that was not looked at has its reason in `skipped`.
    """

    n_tokens: Count = 0
    n_candidates: Count = 0
    by_chance: Fraction | None = None
    by_frequency: Fraction | None = None
    rank: Count = 0
    is_exact: bool = False
    by_span: Fraction | None = None
    by_span_auc: Fraction | None = None
    skipped: Skipped | None = None
    by_rise: Fraction | None = None
    by_rise_auc: Fraction | None = None


class LabelRecovery(Record, frozen=True, kw_only=True):
    """How often classes are there, told from how an update moves the logits of random texts.

    `in_order`: the share of the `n_pairs` pairs of classes, one more frequent than the other, that come out so; half is
    chance. `most_frequent`: the most frequent class comes out first. Both None where all are equally frequent.
    """

    n_classes: Count
    n_pairs: Count
    in_order: Fraction | None
    most_frequent: bool | None


class Membership(Record, frozen=True, kw_only=True):
    """Whether rows were trained on, told by how far their loss falls from the proxy to proxy plus update.

    `of`: the update itself, with other rows to hold against it; or a training like it on half of the rows, which is
    held against the other half. `true_positive_rate`: at one false positive in a hundred. Where it was not tested
    `skipped` has the reason.
    """

    of: Literal["update", "training like it"]
    n_members: Count = 0
    n_others: Count = 0
    auc: Fraction | None = None
    auc_interval: Interval | None = None
    true_positive_rate: Fraction | None = None
    skipped: Skipped | None = None


class CanaryTest(Record, frozen=True, kw_only=True):
    """How well a training like the update's remembers rows of random words.

    `exposure`: in bits; 1.44 on the average for what was not trained on. Of `n_guesses` on whether a canary was in
    `n_right` are right, which refutes each epsilon below `epsilon_bound` at `delta` with 95 % confidence. `epsilon` is
    what the training promises; None, like `noise_multiplier`, for one without noise.
    """

    noise_multiplier: PositiveFloat | None
    n_canaries: Count
    n_references: Count
    exposure_mean: NonNegativeFloat
    exposure_max: NonNegativeFloat
    auc: Fraction
    n_guesses: Count
    n_right: Count
    epsilon_bound: NonNegativeFloat
    epsilon: NonNegativeFloat | None
    delta: Delta


class RowRecovery(Record, frozen=True, kw_only=True):
    """How much of the rows of a small batch a search rebuilds from what they did to the factors.

    `of`: the update itself, or a training like it with the noise of `noise_multiplier`. `n_tokens`: how many the rows
    have, special ones aside; `n_candidates`: tokens that are tried at their places. `found`: the share of the rows'
    tokens that are in the rebuilt rows, wherever; `in_order`: ROUGE-L of rebuilt rows and rows. Those
    `by_chance` are of the same search in an update of other rows, or what nineteen of twenty random rows have at most,
    whichever is more. `match`: the cosine that the rebuilt rows reach, and
    `match_of_rows` what the rows themselves have; below it the search has not come to its end, well above it the
    update does not tell its rows from others. `n_trials`: gradients of rows that were computed. `was_cut`: --budget
    ended a search before its number of trials. One that was not made has its reason in `skipped`.
    """

    of: Literal["update", "training like it"]
    noise_multiplier: PositiveFloat | None = None
    n_rows: Count = 0
    n_tokens: Count = 0
    n_candidates: Count = 0
    found: Fraction | None = None
    found_by_chance: Fraction | None = None
    in_order: Fraction | None = None
    in_order_by_chance: Fraction | None = None
    match: Annotated[float, Meta(ge=-1, le=1)] | None = None
    match_of_rows: Annotated[float, Meta(ge=-1, le=1)] | None = None
    n_trials: Count = 0
    was_cut: bool = False
    skipped: Skipped | None = None


class UpdateAuditReport(Record, frozen=True, kw_only=True, tag_field="about", tag="audit-update"):
    """What an update tells of the rows that it was trained on. Its client's own: it holds no row, but says what leaks.

    `data` and `control_data`: the sha256 of the rows, and of others that were not trained on. `privacy`: what the
    update says of itself. `labels`: None for a language model. `rebuilt`: empty where nobody asked for it. `max_auc`:
    what the client allows.
    """

    task: TaskSpec
    data: Digest
    control_data: Digest | None
    n_examples: Count
    n_steps: Count
    privacy: ExamplePrivacy | None
    tokens: TokenRecovery
    labels: LabelRecovery | None
    rebuilt: tuple[RowRecovery, ...] = ()
    membership: Membership
    canaries: tuple[CanaryTest, ...]
    max_auc: Fraction | None
    verdict: str
    advice: tuple[str, ...]
