"""What the parties agree on, a record for each question; names are the same in options, files and code."""

from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from fedlpp_cli.records.client_privacy import check_client_privacy
from fedlpp_cli.records.masks import HiddenShare, MaskMean
from fedlpp_cli.records.privacy import Delta
from fedlpp_cli.records.record import (
    Count,
    Digest,
    FileName,
    Fraction,
    Label,
    ModuleName,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Record,
)
from fedlpp_cli.records.tensor_groups import width_of

Bits = Literal["ternary", "2", "3", "4", "5", "6", "8", "full"]
ScaleType = Literal["fp32", "fp16", "double"]
Codebook = Literal["nf", "symmetric"]
Rounding = Literal["nearest", "stochastic"]
ScaleRounding = Literal["nearest", "up", "fit"]
BaseFormat = Literal["ternary", "nf2", "nf3", "nf4", "nf5", "nf6", "fp4", "int8"]
WeightRole = Literal["linear", "transposed", "embedding", "output", "kept", "unused"]
TaskKind = Literal["causal-lm", "seq-cls"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]
ComputeType = Literal["fp32", "bf16"]
Batching = Literal["auto", "padded", "bucketed", "packed"]
Weighting = Literal["examples", "equal", "product-norm"]
Combine = Literal["factors", "svd", "stack", "residual"]
Rule = Literal[
    "mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median", "centered-clipping", "fltrust"
]  # fmt: skip
ServerOptimizer = Literal["sgd", "momentum", "adagrad", "adam", "yogi"]

ALL_LINEAR: Final = "all-linear"
EMBEDDINGS: Final = "embeddings"
OUTPUT: Final = "output"
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

    `bits` "full" leaves them in float32: plain federated LoRA. `codebook` "symmetric" is FedQSN's (arXiv 2508.18911):
    as many negative levels as positive ones, 2^k + 1. `rounding` "stochastic" draws between the two levels around a
    weight, from a stream named by `rounding_seed` and by the secret weights themselves. `scale_rounding` "up" takes
    scales from a coarse grid, so that no block gives away its largest weight; "fit" takes those with the least squared
    error, which cuts the largest weights off. `groups` gives groups of tensors a width of their own
    (`records/tensor_groups.py`), all else being the same for all.
    """

    bits: Bits = "3"
    block: Annotated[int, Meta(ge=1, le=2**20)] = 64
    scale: ScaleType = "fp16"
    rounding: Rounding = "nearest"
    rounding_seed: Label | None = None
    scale_rounding: ScaleRounding = "nearest"
    groups: Annotated[dict[ModuleName, Bits], Meta(max_length=256)] = {}
    codebook: Codebook = "nf"

    def of(self, component: str) -> "QuantSpec":
        """How that component is rounded: a spec without groups."""
        if not self.groups:
            return self
        bits = width_of(component, self.groups, self.bits)
        if bits == "full":
            return QuantSpec(bits=bits, block=self.block, scale=self.scale)
        return replace(self, bits=bits, groups={})

    @property
    def is_rounded(self) -> bool:
        """Whether any tensor may be: not all widths are "full"."""
        return {self.bits, *self.groups.values()} != {"full"}

    def __hash__(self) -> int:
        return hash((self.bits, self.block, self.scale, self.rounding_seed, tuple(sorted(self.groups.items()))))

    def __post_init__(self) -> None:
        if (self.rounding == "stochastic") != (self.rounding_seed is not None):
            raise ValueError("rounding_seed: stochastic rounding needs one, rounding to the nearest level has none")
        if not self.is_rounded and (self.rounding, self.scale_rounding) != ("nearest", "nearest"):
            raise ValueError("bits: full precision is not rounded")
        if (self.rounding, self.scale_rounding) == ("stochastic", "fit"):
            raise ValueError("scale_rounding: fit cuts weights off, stochastic rounding would not be right on average")
        if self.codebook == "symmetric" and "8" in {self.bits, *self.groups.values()}:
            raise ValueError("codebook: symmetric has no 8 bits; its 257 levels do not fit into a byte")


FULL_PRECISION: Final = QuantSpec(bits="full")


def check_update_rounding(spec: QuantSpec) -> None:
    """Updates are rounded to the nearest level, all tensors alike: a draw, or larger scales, would only add noise.

    Raises:
        ValueError: another rounding.
    """
    if spec.rounding != "nearest" or spec.scale_rounding == "up":
        raise ValueError("rounding, scale_rounding: of updates the first is nearest, the second nearest or fit")
    if spec.groups:
        raise ValueError("groups: all tensors of an update have one width")


class BaseQuantSpec(Record, frozen=True, kw_only=True):
    """How a private base is rounded: one scale a `block`, or a row with int8.

    nf4, fp4 and int8 lie as bitsandbytes writes them, the others are packed as adapters are. `double` quantizes scales
    too (not int8's). `keep` names what stays in 16 bits: "embeddings", the "output" layer, modules by parts of names;
    norms and biases always do. `mask`: share of output features that nobody gets; `mask_scaling` enlarges the others.
    """

    format: BaseFormat = "nf4"
    block: Annotated[int, Meta(ge=16, le=4096)] = 64
    double: bool = True
    keep: tuple[ModuleName, ...] = (EMBEDDINGS, OUTPUT)
    mask: HiddenShare = 0.0
    mask_scaling: bool = True

    @property
    def bits(self) -> Bits | None:
        """Width of the packed layout; None where the layout is bitsandbytes'."""
        packed: dict[BaseFormat, Bits] = {"ternary": "ternary", "nf2": "2", "nf3": "3", "nf5": "5", "nf6": "6"}
        return packed.get(self.format)

    def __post_init__(self) -> None:
        if self.bits is None and EMBEDDINGS not in self.keep:
            raise ValueError(f"keep: bitsandbytes' {self.format} has no embeddings; a packed format such as nf3 has")
        if self.bits is None and (self.block < 64 or self.block & (self.block - 1)):
            raise ValueError(f"block: bitsandbytes' {self.format} has blocks of 64, 128, 256 and so on to 4096")


class TrainSpec(Record, frozen=True, kw_only=True):
    """The recipe that a client follows in one round. One of `steps` and `epochs` is set.

    `warmup` is the share of steps over which the learning rate rises. `max_grad_norm` 0 clips nothing. `proximal_mu` is
    FedProx's (Li et al. 2020, arXiv 1812.06127): it pulls the adapter towards the proxy. With `control_variates`
    clients correct their gradients as SCAFFOLD does (Karimireddy et al. 2020, arXiv 1910.06378).
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
    proximal_mu: NonNegativeFloat = 0.0
    control_variates: bool = False
    compute: ComputeType = "fp32"
    max_update_norm: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps, epochs: set one of them")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum: goes with optimizer sgd, not {self.optimizer}")
        if self.control_variates and (self.optimizer, self.momentum, self.weight_decay) != ("sgd", 0.0, 0.0):
            raise ValueError("control_variates: SCAFFOLD goes with optimizer sgd, momentum 0 and weight_decay 0")
        if self.control_variates and self.steps is None:
            raise ValueError("control_variates: SCAFFOLD goes with steps, the same number for all clients, not epochs")
        if self.control_variates and self.proximal_mu:
            raise ValueError("proximal_mu: FedProx and SCAFFOLD (control_variates) both hold clients back; choose one")


class AggregateSpec(Record, frozen=True, kw_only=True):
    """How updates become the next master. Update rules 1 to 4: `aggregation/update_rules.py`.

    `weighting` "equal" is FedLPP's; "examples" trusts the numbers that clients report, up to `max_examples` each, and
    up to `max_share` of the whole. `rule` is how updates become one (`aggregation/rules.py`); `n_malicious` of the
    clients may be against it. In front of it norms may be clipped, to `clip_norm` or to the round's median.
    `server_optimizer` takes what comes out for a gradient (`aggregation/server_optimizers.py`). `combine` says what is
    averaged: factors, those of lower rank filled up with zeros, or products `B A` (`aggregation/combine.py`). With
    `min_clients` sound updates the others are left out; without that number all must be sound. `n_population`: how many
    clients there are, for SCAFFOLD; None for as many as before, or as sent an update if those are more. `mask_mean`:
    what is masked is averaged over the clients who see it, or as if all did (`aggregation/masks.py`).

    With `client_noise_multiplier` each client is protected (`aggregation/client_noise.py`): noise of that many times
    the clipping norm joins the sum of the clipped updates, and the sum is divided by `expected_clients`, whoever came.
    `client_sampling_rate`: the probability with which each client is in a round. With `clip_quantile` the clipping norm
    follows that quantile of the norms, from `clip_norm` on, by `clip_learning_rate`; how many are below it is counted
    with noise of `clipped_count_stddev`, None for `expected_clients` / 20.
    """

    update_rule: Literal[1, 2, 3, 4] = 1
    server_learning_rate: PositiveFloat = 1.0
    weighting: Weighting = "equal"
    max_examples: PositiveInt | None = None
    n_rounds: PositiveInt | None = None
    rule: Rule = "mean"
    n_malicious: Count = 0
    clip_norm: PositiveFloat | None = None
    clip_to_median: bool = False
    server_optimizer: ServerOptimizer = "sgd"
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    tau: PositiveFloat = 1e-3
    combine: Combine = "factors"
    mask_mean: MaskMean = "aware"
    n_population: PositiveInt | None = None
    min_clients: PositiveInt | None = None
    max_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    client_noise_multiplier: PositiveFloat | None = None
    expected_clients: PositiveInt | None = None
    client_sampling_rate: Annotated[float, Meta(gt=0, le=1)] = 1.0
    client_delta: Delta = 1e-5
    clip_quantile: Annotated[float, Meta(gt=0, lt=1)] | None = None
    clip_learning_rate: PositiveFloat = 0.2
    clipped_count_stddev: PositiveFloat | None = None

    @property
    def count_stddev(self) -> float:
        """Of the noise on the number of clients below the clipping norm, said or not."""
        return self.clipped_count_stddev or (self.expected_clients or 0) / 20

    def __post_init__(self) -> None:
        check_client_privacy(self)
        if self.update_rule == 4 and self.n_rounds is None:
            raise ValueError("n_rounds: update rule 4 decays over a planned number of rounds; set it")
        if self.server_optimizer != "sgd" and self.update_rule != 1:
            raise ValueError(
                f"server_optimizer: {self.server_optimizer} goes with update rule 1, not {self.update_rule}"
            )
        if self.combine != "factors" and (self.rule, self.server_optimizer, self.update_rule) != ("mean", "sgd", 1):
            raise ValueError(f"combine: {self.combine} goes with rule mean, server optimizer sgd and update rule 1")


class TrainMetrics(Record, frozen=True, kw_only=True):
    """What a client tells of its training: numbers only.

    With privacy for its examples it tells no losses: they are made of the rows, and have no noise.
    """

    n_examples: PositiveInt
    n_steps: PositiveInt
    n_tokens: Count
    loss_first: float | None
    loss_last: float | None
    update_norm: PositiveFloat


class EvaluateSpec(Record, frozen=True, kw_only=True):
    """How models are scored. With `generate`, completions are decoded and compared."""

    batch_size: PositiveInt = 16
    limit: PositiveInt | None = None
    generate: bool = False
    num_beams: PositiveInt = 1
    max_new_tokens: PositiveInt = 64
