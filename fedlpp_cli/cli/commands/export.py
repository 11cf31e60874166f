"""`fedlpp export`."""

from typing import Annotated, Literal

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings

FormatOpt = Annotated[
    Literal["peft", "merged"],
    typer.Option("--format", help="peft: an adapter for PeftModel. merged: a plain transformers model."),
]
MergedOpt = Annotated[bool, typer.Option("--merged", help="The same as --format merged.")]


def export(
    master: o.MasterArg,
    out: o.OutOpt,
    format: FormatOpt = "peft",  # noqa: A002  # the option's name
    merged: MergedOpt = False,
    base: o.BaseOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Write a master's adapter for other tools: master -> PEFT folder, or merged model.

    fedlpp export master.safetensors --out adapter
    fedlpp export master.safetensors --merged --base ./model --out merged-model
    """
    from fedlpp_cli.steps.export import export as step

    return step(
        master,
        out=out,
        format="merged" if merged else format,
        base=read_settings(federation).ref(base, "base"),
        force=force,
        on_progress=on_progress,
    )
