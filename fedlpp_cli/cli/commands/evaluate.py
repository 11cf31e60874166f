"""`fedlpp evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli import mask_options as m
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of, data_of_clients, groups_of, keep_of, labels_of, with_method
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec, TrainSpec

COMPARISON = "Comparison"

ArtifactsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]REF...",
        help="Masters, packages, proxies, PEFT adapters, run folders. A name in front tells several apart; of several "
        "with one name, such as runs of other seeds, mean and standard deviation are told too.",
        show_default=False,
    ),
]
TestDataOpt = Annotated[
    str | None,
    typer.Option("--data", metavar="REF", help="Held-out rows.", show_default=False, rich_help_panel=o.DATA),
]
EveryOpt = Annotated[
    int, typer.Option("--every", metavar="N", min=1, help="Of a run folder every N-th round, and always the last.")
]
AloneOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--alone",
        metavar="NAME[=REF]",
        help="Train on this client's data alone, from the base on, as many steps as it made so far, and score that. "
        "Without REF its data is that which the --federation file names. Repeat it for more.",
        show_default=False,
        rich_help_panel=COMPARISON,
    ),
]
FineTunedOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--fine-tuned",
        metavar="NAME[=REF]",
        help="Train the newest proxy on this client's data for a round, and score that. Repeat it for more.",
        show_default=False,
        rich_help_panel=COMPARISON,
    ),
]
TrainDataOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--train-data",
        metavar="REF",
        help="Data that was trained on: tells how many held-out rows are in it too. Repeat it for more.",
        show_default=False,
        rich_help_panel=COMPARISON,
    ),
]
PerClassOpt = Annotated[
    bool,
    typer.Option("--per-class", help="Show precision, recall and F1 of each class.", rich_help_panel=o.SCORING),
]
HarnessOpt = Annotated[
    str | None,
    typer.Option(
        "--harness",
        metavar="TASKS",
        help="Tasks of lm-evaluation-harness to score too, as hellaswag,arc_easy; needs the package lm_eval.",
        show_default=False,
        rich_help_panel=o.SCORING,
    ),
]
HarnessTasksOpt = Annotated[
    Path | None,
    typer.Option(
        "--harness-tasks",
        metavar="FOLDER",
        help="YAML files of more such tasks.",
        show_default=False,
        rich_help_panel=o.SCORING,
    ),
]
ReportOpt = Annotated[
    str | None, typer.Option("--out", "-o", metavar="REF", help="Write a report there, too.", show_default=False)
]


def evaluate(
    artifacts: ArtifactsArg,
    data: TestDataOpt = None,
    base: o.BaseOpt = None,
    base_artifact: o.BaseArtifactOpt = None,
    every: EveryOpt = 1,
    alone: AloneOpt = None,
    fine_tuned: FineTunedOpt = None,
    train_data: TrainDataOpt = None,
    per_class: PerClassOpt = False,
    harness: HarnessOpt = None,
    harness_tasks: HarnessTasksOpt = None,
    out: ReportOpt = None,
    bits: o.BitsOpt = None,
    block: o.BlockOpt = None,
    scale: o.ScaleOpt = None,
    rounding: o.RoundingOpt = None,
    rounding_seed: o.RoundingSeedOpt = None,
    scale_rounding: o.ScaleRoundingOpt = None,
    group: o.GroupOpt = None,
    base_format: o.BaseFormatOpt = None,
    base_block: o.BaseBlockOpt = None,
    base_double: o.BaseDoubleOpt = None,
    base_keep: o.BaseKeepOpt = None,
    base_mask: m.BaseMaskOpt = None,
    base_mask_scaling: m.BaseMaskScalingOpt = None,
    batch_size: o.EvaluateBatchSizeOpt = None,
    limit: o.LimitOpt = None,
    generate: o.GenerateOpt = None,
    num_beams: o.NumBeamsOpt = None,
    max_new_tokens: o.MaxNewTokensOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    device: o.DeviceOpt = "auto",
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Score models on held-out data, side by side. A master gives base, proxy and central; a run folder each round's.

    fedlpp evaluate master.safetensors --base ./model --data test.jsonl
    fedlpp evaluate runs/ours -f federation.toml --alone east --fine-tuned east --out evaluation.json
    fedlpp evaluate ours=master.safetensors fedavg=fedavg.safetensors -f federation.toml --generate
    """
    from fedlpp_cli.steps.evaluate import evaluate as step

    settings = with_method(read_settings(federation))
    quantize = {
        "bits": bits,
        "block": block,
        "scale": scale,
        "rounding": rounding,
        "rounding_seed": rounding_seed,
        "scale_rounding": scale_rounding,
        "groups": groups_of(settings, group),
    }
    is_told = any(value is not None for value in quantize.values())
    return step(
        artifacts,
        data=settings.needed_ref(data, "test_data", flag="--data"),
        base=settings.ref(base, "base"),
        base_artifact=base_artifact,
        spec=settings.resolve(
            EvaluateSpec,
            batch_size=batch_size,
            limit=limit,
            generate=generate,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
        ),
        quantize=settings.resolve(QuantSpec, **quantize) if is_told else None,
        base_quantize=settings.resolve(
            BaseQuantSpec,
            format=base_format,
            block=base_block,
            double=base_double,
            keep=keep_of(base_keep),
            mask=base_mask,
            mask_scaling=base_mask_scaling,
        ),
        mask=settings.resolve(MaskSpec) if settings.file.mask else None,
        clients=tuple(settings.file.clients),
        every=every,
        alone_on=data_of_clients(settings, alone, flag="--alone"),
        fine_tune_on=data_of_clients(settings, fine_tuned, flag="--fine-tuned"),
        train_data=train_data or (),
        train=settings.resolve(TrainSpec) if settings.file.train else None,
        harness=labels_of(harness) or (),
        harness_tasks=harness_tasks,
        columns=columns_of(settings, column),
        split=split,
        device=device,
        per_class=per_class,
        out=out,
        force=force,
        on_progress=on_progress,
    )
