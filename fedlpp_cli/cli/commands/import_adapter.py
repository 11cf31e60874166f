"""`fedlpp import`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import labels_of
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import TaskSpec

AdapterArg = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="A PEFT folder, or hf://owner/repo.", show_default=False)
]


def import_adapter(
    adapter: AdapterArg,
    out: o.SecretOutOpt,
    base: o.BaseOpt = None,
    private_base: o.PrivateBaseOpt = None,
    method: o.MethodOpt = None,
    warmup_rounds: o.WarmupRoundsOpt = None,
    task: o.TaskOpt = None,
    max_length: o.MaxLengthOpt = None,
    labels: o.LabelsOpt = None,
    seed: o.SeedOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Start a federation from an adapter that PEFT has trained: PEFT folder + base -> master of round 0.

    fedlpp import ./adapter --base ./model --out master.safetensors
    """
    from fedlpp_cli.steps.import_adapter import import_adapter as step

    settings = read_settings(federation)
    return step(
        adapter,
        base=settings.needed_ref(base, "base"),
        out=out,
        task=settings.resolve(TaskSpec, kind=task, max_length=max_length, labels=labels_of(labels)),
        private_base=settings.choose(private_base, "private_base", default=False),
        method=settings.choose(method, "method", default=METHOD),
        method_options=settings.resolve(MethodSpec, warmup_rounds=warmup_rounds),
        seed=settings.choose(seed, "seed", default=0),
        force=force,
        on_progress=on_progress,
    )
