"""Options for how a client computes. Suffix `Opt`; names are those of the records' fields."""

from typing import Annotated

import typer

from fedlpp_cli.records.compute import ComputeSpec, ComputeWish
from fedlpp_cli.records.specs import Batching

COMPUTE = "Computing"

ComputeOpt = Annotated[
    ComputeWish,
    typer.Option(
        "--compute",
        help="What the base's layers run on; auto is dense where memory allows, in the package's arithmetic.",
        rich_help_panel=COMPUTE,
    ),
]
BatchingOpt = Annotated[
    Batching,
    typer.Option(
        "--batching",
        help="How to save computing on padding: examples of like length together, or in a row.",
        rich_help_panel=COMPUTE,
    ),
]
CheckpointingOpt = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing",
        help="Compute activations twice instead of keeping them: less memory, a third slower.",
        rich_help_panel=COMPUTE,
    ),
]
MicroBatchOpt = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        min=1,
        help="Rows that go through the model at once; the gradient is that of the whole batch.",
        show_default="whole batches",
        rich_help_panel=COMPUTE,
    ),
]
ShardBaseOpt = Annotated[
    bool,
    typer.Option(
        "--shard-base",
        help="Of several processes each keeps a part of the base only, for one that fits no single GPU.",
        rich_help_panel=COMPUTE,
    ),
]
TrainDeviceOpt = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, or split: the base over all GPUs.", rich_help_panel=COMPUTE),
]
TrialStepsOpt = Annotated[
    int,
    typer.Option(
        "--trial-steps",
        min=0,
        help="Steps that a dry run measures and takes back; 0 does not open the model.",
        rich_help_panel=COMPUTE,
    ),
]


def compute_spec(
    backend: ComputeWish,
    batching: Batching,
    gradient_checkpointing: bool,
    micro_batch: int | None,
    trial_steps: int = 0,
    *,
    shard_base: bool = False,
) -> ComputeSpec:
    """What was asked for."""
    return ComputeSpec(
        backend=backend,
        batching=batching,
        gradient_checkpointing=gradient_checkpointing,
        micro_batch=micro_batch,
        shard_base=shard_base,
        trial_steps=trial_steps,
    )
