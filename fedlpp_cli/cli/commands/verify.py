"""`fedlpp verify`."""

from typing import Annotated

import typer

from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.records.record import Record

VerifyArg = Annotated[
    list[str], typer.Argument(metavar="ARTIFACT...", help="Artifacts of any kind, or run folders.", show_default=False)
]
CompleteOpt = Annotated[bool, typer.Option("--complete", help="Every parent must be among them.")]


def verify(artifacts: VerifyArg, complete: CompleteOpt = False) -> Record:
    """Check digests, headers, layouts, and that artifacts follow from one another.

    fedlpp verify package
    fedlpp verify runs/demo --complete
    """
    from fedlpp_cli.steps.verify import verify as step

    return step(artifacts, complete=complete, on_progress=on_progress)
