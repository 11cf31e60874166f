"""`fedlpp audit`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli import privacy_options as p
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings

UpdateOpt = Annotated[
    str, typer.Option("--update", metavar="REF", help="What client-train made, before it is sent.", show_default=False)
]
PackageOpt = Annotated[
    str, typer.Option("--package", metavar="REF", help="What it was trained on.", show_default=False)
]
RowsOpt = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="REF",
        help="The rows that it was trained on.",
        show_default=False,
        rich_help_panel=o.DATA,
    ),
]
ControlDataOpt = Annotated[
    str | None,
    typer.Option(
        "--control-data",
        metavar="REF",
        help="Rows of the same kind that it was not trained on. Without them a training like it, of half of the rows, "
        "is tested on the other half.",
        show_default=False,
        rich_help_panel=o.DATA,
    ),
]
CanariesOpt = Annotated[
    int,
    typer.Option("--canaries", min=0, help="Rows of random words to try; half of them are trained on. 0 for none."),
]
MaxAucOpt = Annotated[
    float | None,
    typer.Option(
        "--max-auc",
        min=0.0,
        max=1.0,
        help="Fail if rows are told from others better than this; 0.5 is chance.",
        show_default=False,
    ),
]
ReportOpt = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="PATH", help="Write a report there, too; yours alone.", show_default=False),
]


def audit(
    update: UpdateOpt,
    package: PackageOpt,
    data: RowsOpt,
    control_data: ControlDataOpt = None,
    base: o.BaseOpt = None,
    out: ReportOpt = None,
    max_auc: MaxAucOpt = None,
    canaries: CanariesOpt = 64,
    dp_epsilon: p.DpEpsilonOpt = None,
    noise_multiplier: p.NoiseMultiplierOpt = None,
    dp_delta: p.DpDeltaOpt = None,
    dp_rounds: p.DpRoundsOpt = None,
    max_grad_norm: p.MaxGradNormOpt = None,
    batch_size: o.EvaluateBatchSizeOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    device: o.DeviceOpt = "auto",
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Attack an update as its owner could, before it is sent: which words, classes and rows come out of it.

    fedlpp audit --update north.safetensors --package package --data notes.jsonl --control-data others.jsonl
    fedlpp audit --update north.safetensors --package package --data notes.jsonl --dp-epsilon 8 --max-auc 0.6
        --out north.audit.json
    """
    from fedlpp_cli.steps.audit_update import audit_update as step

    settings = read_settings(federation)
    noise = {
        "epsilon": dp_epsilon,
        "noise_multiplier": noise_multiplier,
        "delta": dp_delta,
        "n_rounds": dp_rounds,
        "max_grad_norm": max_grad_norm,
    }
    is_asked = bool(settings.file.privacy) or any(value is not None for value in noise.values())
    return step(
        update,
        package=package,
        data=data,
        control_data=control_data,
        base=settings.ref(base, "base"),
        columns=columns_of(settings, column),
        split=split,
        device=device,
        privacy=settings.resolve(PrivacySpec, **noise) if is_asked else None,
        n_canaries=canaries,
        batch_size=batch_size or 16,
        max_auc=max_auc,
        out=out,
        force=force,
        on_progress=on_progress,
    )
