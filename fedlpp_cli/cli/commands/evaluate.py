"""`fedlpp evaluate`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of, groups_of, keep_of
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec

ArtifactsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]REF...",
        help="Masters, packages, proxies, PEFT adapters; a name in front tells several apart.",
        show_default=False,
    ),
]
TestDataOpt = Annotated[
    str | None,
    typer.Option("--data", metavar="REF", help="Held-out rows.", show_default=False, rich_help_panel=o.DATA),
]
ReportOpt = Annotated[
    str | None, typer.Option("--out", "-o", metavar="REF", help="Write a report there, too.", show_default=False)
]


def evaluate(
    artifacts: ArtifactsArg,
    data: TestDataOpt = None,
    base: o.BaseOpt = None,
    base_artifact: o.BaseArtifactOpt = None,
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
    """Score models on held-out data, side by side. A master gives base, proxy and central.

    fedlpp evaluate master.safetensors --base ./model --data test.jsonl
    fedlpp evaluate ours=master.safetensors alone=alone.safetensors -f federation.toml --generate
    """
    from fedlpp_cli.steps.evaluate import evaluate as step

    settings = read_settings(federation)
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
            BaseQuantSpec, format=base_format, block=base_block, double=base_double, keep=keep_of(base_keep)
        ),
        columns=columns_of(settings, column),
        split=split,
        device=device,
        out=out,
        force=force,
        on_progress=on_progress,
    )
