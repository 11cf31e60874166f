"""Options that several commands share. Suffix `Arg` or `Opt`; names are those of the records' fields."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import (
    DEFAULT_STEPS,
    FULL_PRECISION,
    BaseFormat,
    BaseQuantSpec,
    Bits,
    Codebook,
    ComputeType,
    EvaluateSpec,
    LoraSpec,
    Optimizer,
    QuantSpec,
    Rounding,
    ScaleRounding,
    ScaleType,
    Schedule,
    TaskKind,
    TaskSpec,
    TrainSpec,
)

ADAPTER = "Adapter"
TASK = "Task"
ROUNDING = "Rounding"
RECIPE = "Recipe"
UPDATE = "Update"
DATA = "Data"
SCORING = "Scoring"


def of(
    spec: type[Record] | Record,
    field: str,
    text: str,
    *,
    panel: str | None = None,
    flag: str | None = None,
    at_least: int | None = None,
) -> Any:
    """An option for a record's field: None where it is not given, the record's default in the help."""
    default = getattr(spec if isinstance(spec, Record) else _defaults(spec), field, None)
    shown = default if isinstance(default, str | int | float) and not isinstance(default, bool) else None
    return typer.Option(
        flag or f"--{field.replace('_', '-')}",
        help=text,
        min=at_least,
        show_default=f"{shown:g}" if isinstance(shown, float) else str(shown) if shown is not None else False,
        rich_help_panel=panel,
    )


def _defaults(spec: type[Record]) -> Record:
    return spec(steps=1) if spec is TrainSpec else spec()


# What is read and written
MasterArg = Annotated[str, typer.Argument(metavar="MASTER", help="The owner's master of a round.", show_default=False)]
OutOpt = Annotated[
    str, typer.Option("--out", "-o", metavar="REF", help="Where the output goes: a path, or hf://owner/repo/path.")
]
SecretOutOpt = Annotated[
    str, typer.Option("--out", "-o", metavar="PATH", help="Where the output goes: a path of the owner's.")
]
BaseOpt = Annotated[
    str | None,
    typer.Option("--base", metavar="REF", help="The base model: a folder, or hf://owner/repo.", show_default=False),
]
BaseArtifactOpt = Annotated[
    str | None,
    typer.Option(
        "--base-artifact", metavar="REF", help="What quantize --base-out made of a private base.", show_default=False
    ),
]
PrivateBaseOpt = Annotated[
    bool | None,
    typer.Option(
        "--private-base/--public-base", help="Clients shall only see a quantized copy of the base.", show_default=False
    ),
]
FederationOpt = Annotated[
    Path | None,
    typer.Option(
        "--federation",
        "-f",
        metavar="FILE",
        help="federation.toml with settings; options win over it.",
        show_default=False,
    ),
]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would happen, write nothing.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
SeedOpt = Annotated[
    int | None, typer.Option("--seed", min=0, help="Every value drawn depends on it.", show_default="0")
]
MethodOpt = Annotated[
    str | None,
    typer.Option("--method", metavar="NAME", help="See fedlpp methods; fixed from now on.", show_default=METHOD),
]
WarmupRoundsOpt = Annotated[
    int | None,
    typer.Option(
        "--warmup-rounds", min=2, help="as-lora: rounds in which all layers take turns.", show_default="10 of as-lora"
    ),
]

# TaskSpec
TaskOpt = Annotated[TaskKind | None, of(TaskSpec, "kind", "What the model learns.", panel=TASK, flag="--task")]
MaxLengthOpt = Annotated[int | None, of(TaskSpec, "max_length", "Tokens of a row that are used.", panel=TASK)]
LabelsOpt = Annotated[str | None, of(TaskSpec, "labels", "Classes of seq-cls, such as yes,no,unsure.", panel=TASK)]

# LoraSpec
RankOpt = Annotated[int | None, of(LoraSpec, "rank", "Rank of the factors.", panel=ADAPTER)]
AlphaOpt = Annotated[float | None, of(LoraSpec, "alpha", "Scaling is alpha / rank.", panel=ADAPTER)]
DropoutOpt = Annotated[float | None, of(LoraSpec, "dropout", "Dropout in front of the factors.", panel=ADAPTER)]
UseRsloraOpt = Annotated[
    bool | None,
    typer.Option("--use-rslora", help="Scaling is alpha / sqrt(rank).", rich_help_panel=ADAPTER, show_default=False),
]
TargetModulesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--target-modules",
        metavar="NAME",
        help="A layer to adapt, by the end of its name, such as q_proj; repeat it for more. all-linear for all.",
        rich_help_panel=ADAPTER,
        show_default="all-linear",
    ),
]
ModulesToSaveOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--modules-to-save",
        metavar="NAME",
        help="A module to train whole; the head of a classifier always is.",
        rich_help_panel=ADAPTER,
        show_default=False,
    ),
]

# QuantSpec, BaseQuantSpec
BitsOpt = Annotated[Bits | None, of(QuantSpec, "bits", "Bits a weight; full leaves float32.", panel=ROUNDING)]
BlockOpt = Annotated[int | None, of(QuantSpec, "block", "Weights that share a scale.", panel=ROUNDING)]
ScaleOpt = Annotated[ScaleType | None, of(QuantSpec, "scale", "How scales are kept.", panel=ROUNDING)]
CodebookOpt = Annotated[
    Codebook | None,
    of(QuantSpec, "codebook", "FedLPP's levels, or FedQSN's: as many below 0 as above.", panel=ROUNDING),
]
RoundingOpt = Annotated[
    Rounding | None,
    of(QuantSpec, "rounding", "The nearest level, or a draw between the two around.", panel=ROUNDING),
]
RoundingSeedOpt = Annotated[
    str | None,
    typer.Option(
        "--rounding-seed",
        metavar="NAME",
        help="Name of the draws of stochastic rounding; any, clients see it.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
ScaleRoundingOpt = Annotated[
    ScaleRounding | None,
    of(QuantSpec, "scale_rounding", "up hides each block's largest weight; fit loses least.", panel=ROUNDING),
]
GroupOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="NAME=BITS",
        help="Another width for tensors with these parts of names, as lora_B=4, q_proj=2, layers.0=5; repeat it.",
        show_default=False,
        rich_help_panel=ROUNDING,
    ),
]
BaseFormatOpt = Annotated[
    BaseFormat | None,
    of(BaseQuantSpec, "format", "Format of a private base.", panel=ROUNDING, flag="--base-format"),
]
BaseBlockOpt = Annotated[
    int | None,
    of(BaseQuantSpec, "block", "Weights of a private base that share a scale.", panel=ROUNDING, flag="--base-block"),
]
BaseKeepOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--base-keep",
        metavar="NAME",
        help="What of a private base stays in 16 bits: embeddings, output, or modules by a part of their names; repeat "
        "it for more. none for nothing but norms and biases.",
        rich_help_panel=ROUNDING,
        show_default="embeddings, output",
    ),
]
BaseDoubleOpt = Annotated[
    bool | None,
    typer.Option(
        "--base-double/--no-base-double",
        help="Quantize the scales of a private base too.",
        rich_help_panel=ROUNDING,
        show_default="base-double",
    ),
]

# TrainSpec
StepsOpt = Annotated[
    int | None,
    typer.Option(
        "--steps", help="Optimizer steps in a round.", show_default=str(DEFAULT_STEPS), rich_help_panel=RECIPE
    ),
]
EpochsOpt = Annotated[
    float | None,
    typer.Option(
        "--epochs", help="Passes over the data, instead of steps.", show_default=False, rich_help_panel=RECIPE
    ),
]
BatchSizeOpt = Annotated[int | None, of(TrainSpec, "batch_size", "Rows in a batch.", panel=RECIPE)]
GradientAccumulationOpt = Annotated[
    int | None, of(TrainSpec, "gradient_accumulation", "Batches in a step.", panel=RECIPE)
]
OptimizerOpt = Annotated[Optimizer | None, of(TrainSpec, "optimizer", "Started anew in each round.", panel=RECIPE)]
LearningRateOpt = Annotated[float | None, of(TrainSpec, "learning_rate", "Highest learning rate.", panel=RECIPE)]
WeightDecayOpt = Annotated[float | None, of(TrainSpec, "weight_decay", "Weight decay.", panel=RECIPE)]
MomentumOpt = Annotated[float | None, of(TrainSpec, "momentum", "Momentum of sgd.", panel=RECIPE)]
ScheduleOpt = Annotated[Schedule | None, of(TrainSpec, "schedule", "Learning rate after the warm-up.", panel=RECIPE)]
WarmupOpt = Annotated[float | None, of(TrainSpec, "warmup", "Share of steps over which it rises.", panel=RECIPE)]
MaxGradNormOpt = Annotated[
    float | None, of(TrainSpec, "max_grad_norm", "Clip gradients to it; 0 clips nothing.", panel=RECIPE)
]
ComputeOpt = Annotated[ComputeType | None, of(TrainSpec, "compute", "Arithmetic of the base.", panel=RECIPE)]
ProximalMuOpt = Annotated[
    float | None, of(TrainSpec, "proximal_mu", "FedProx: pull towards the proxy; 0 does not.", panel=RECIPE)
]
ControlVariatesOpt = Annotated[
    bool | None,
    typer.Option(
        "--control-variates/--no-control-variates",
        help="SCAFFOLD: clients take their drift out of sgd's steps. It tells them where the adapter goes.",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
MaxUpdateNormOpt = Annotated[
    float | None, of(TrainSpec, "max_update_norm", "Refuse updates with a larger norm.", panel=RECIPE)
]

# QuantSpec of updates
UpdateBitsOpt = Annotated[
    Bits | None,
    of(FULL_PRECISION, "bits", "Bits a number of an update; full leaves float32.", panel=UPDATE, flag="--update-bits"),
]
UpdateBlockOpt = Annotated[
    int | None,
    of(FULL_PRECISION, "block", "Numbers of an update that share a scale.", panel=UPDATE, flag="--update-block"),
]
UpdateScaleOpt = Annotated[
    ScaleType | None,
    of(FULL_PRECISION, "scale", "How an update's scales are kept.", panel=UPDATE, flag="--update-scale"),
]
UpdateCodebookOpt = Annotated[
    Codebook | None,
    of(FULL_PRECISION, "codebook", "Levels of an update.", panel=UPDATE, flag="--update-codebook"),
]
UpdateScaleRoundingOpt = Annotated[
    ScaleRounding | None,
    of(
        FULL_PRECISION,
        "scale_rounding",
        "fit loses least in each update.",
        panel=UPDATE,
        flag="--update-scale-rounding",
    ),
]

# Data and scoring
ColumnOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=NAME",
        help="What the data calls a field, as text=body. Fields: text, text_pair, label, prompt, completion, messages.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
SplitOpt = Annotated[
    str | None,
    typer.Option("--split", help="Of a data set that has several.", show_default="train", rich_help_panel=DATA),
]
EvaluateBatchSizeOpt = Annotated[
    int | None, of(EvaluateSpec, "batch_size", "Rows in a batch.", panel=SCORING, at_least=1)
]
LimitOpt = Annotated[int | None, of(EvaluateSpec, "limit", "Score only the first rows.", panel=SCORING, at_least=1)]
GenerateOpt = Annotated[
    bool | None,
    typer.Option(
        "--generate/--no-generate",
        help="Decode completions too: BLEU, chrF, ROUGE-L, exact match.",
        show_default=False,
        rich_help_panel=SCORING,
    ),
]
NumBeamsOpt = Annotated[int | None, of(EvaluateSpec, "num_beams", "Beams; 1 decodes greedily.", panel=SCORING)]
MaxNewTokensOpt = Annotated[int | None, of(EvaluateSpec, "max_new_tokens", "Tokens to decode at most.", panel=SCORING)]
