"""What the parties agree on, a record for each question; names are the same in options, files and code."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from fedlpp_cli.records.record import (
    Count,
    Digest,
    FileName,
    Fraction,
    ModuleName,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Record,
)

Bits = Literal["ternary", "2", "3", "4", "5", "6", "8", "full"]
ScaleType = Literal["fp32", "fp16", "double"]
BaseFormat = Literal["nf4", "fp4"]
TaskKind = Literal["causal-lm", "seq-cls"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]
ComputeType = Literal["fp32", "bf16"]
Weighting = Literal["examples", "equal"]

ALL_LINEAR: Final = "all-linear"
DEFAULT_STEPS: Final = 100


class BaseSpec(Record, frozen=True, kw_only=True):
    """Which pretrained model `W0` the adapter sits on.

    `files` gives the sha256 of the configuration, weight and tokenizer files; whoever trains or evaluates
    checks its copy against them. For a private base, what clients see of this record has neither `hub` nor
    `files`: even the digest of a configuration file can tell which model it is.
    """

    model_type: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$(?!\n)")]
    private: bool
    hub: str | None
    files: dict[FileName, Digest]


class TaskSpec(Record, frozen=True, kw_only=True):
    """What the model learns: next tokens, or one label a text."""

    kind: TaskKind = "causal-lm"
    max_length: Annotated[int, Meta(ge=2, le=2**20)] = 512
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "seq-cls" and len(self.labels) < 2:
            raise ValueError(f"labels: seq-cls needs at least two, found {len(self.labels)}")
        if self.kind == "causal-lm" and self.labels:
            raise ValueError("labels: causal-lm has none")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a name stands twice")


class LoraSpec(Record, frozen=True, kw_only=True):
    """The adapter (Hu et al. 2021, arXiv 2106.09685): `W x + s B A x`, rank `r`, scaling `s = alpha / r`.

    With `use_rslora` `s = alpha / sqrt(r)` (Kalajdzievski 2023, arXiv 2312.03732). `target_modules` name layers: in an
    artifact by full names, in options and files also by ends of names, or "all-linear". `modules_to_save` are trained
    whole, without factors: the head of a classifier.
    """

    rank: Annotated[int, Meta(ge=1, le=1024)] = 8
    alpha: PositiveFloat = 16.0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    target_modules: tuple[ModuleName, ...] = (ALL_LINEAR,)
    modules_to_save: tuple[ModuleName, ...] = ()

    @property
    def scaling(self) -> float:
        """The factor `s` in front of `B A`."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)


class ModelSpec(Record, frozen=True, kw_only=True):
    """Everything needed to rebuild the adapted model around a set of adapter tensors."""

    base: BaseSpec
    task: TaskSpec
    lora: LoraSpec


class QuantSpec(Record, frozen=True, kw_only=True):
    """How adapter tensors are rounded (FedLPP, arXiv 2406.10976): NF-k levels, one scale a block.

    `bits` "full" leaves them in float32: plain federated LoRA.
    """

    bits: Bits = "3"
    block: Annotated[int, Meta(ge=1, le=2**20)] = 64
    scale: ScaleType = "fp16"
    rounding: Literal["nearest"] = "nearest"


class BaseQuantSpec(Record, frozen=True, kw_only=True):
    """How a private base is rounded: bitsandbytes' 4-bit formats, blocks of 64."""

    format: BaseFormat = "nf4"
    double: bool = True


class TrainSpec(Record, frozen=True, kw_only=True):
    """The recipe that a client follows in one round. One of `steps` and `epochs` is set.

    `warmup` is the share of steps over which the learning rate rises. `max_grad_norm` 0 clips nothing.
    """

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    batch_size: PositiveInt = 16
    gradient_accumulation: PositiveInt = 1
    optimizer: Optimizer = "adamw"
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    schedule: Schedule = "constant"
    warmup: Fraction = 0.0
    max_grad_norm: NonNegativeFloat = 1.0
    compute: ComputeType = "fp32"
    max_update_norm: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps, epochs: set one of them")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: goes with optimizer sgd, not {self.optimizer}")


class AggregateSpec(Record, frozen=True, kw_only=True):
    """How updates become the next master. Update rules 1 to 4: `aggregation/update_rules.py`.

    `weighting` "equal" is FedLPP's; "examples" trusts the numbers that clients report, up to `max_examples` each.
    """

    update_rule: Literal[1, 2, 3, 4] = 1
    server_learning_rate: PositiveFloat = 1.0
    weighting: Weighting = "equal"
    max_examples: PositiveInt | None = None
    n_rounds: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.update_rule == 4 and self.n_rounds is None:
            raise ValueError("n_rounds: update rule 4 decays over a planned number of rounds; set it")


class TrainMetrics(Record, frozen=True, kw_only=True):
    """What a client tells of its training: numbers only."""

    n_examples: PositiveInt
    n_steps: PositiveInt
    n_tokens: Count
    loss_first: float
    loss_last: float
    update_norm: PositiveFloat


class EvaluateSpec(Record, frozen=True, kw_only=True):
    """How models are scored. With `generate`, completions are decoded and compared (BLEU, ROUGE-L)."""

    batch_size: PositiveInt = 16
    limit: PositiveInt | None = None
    generate: bool = False
    num_beams: PositiveInt = 1
    max_new_tokens: PositiveInt = 64
