"""`fedlpp status`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings

RunArg = Annotated[str, typer.Argument(metavar="RUN", help="The folder that holds round-0000.", show_default=False)]
ClientsOpt = Annotated[
    list[str] | None,
    typer.Option("--client", help="Who should send an update; repeat it. Else \\[clients] of the federation file."),
]


def status(run: RunArg, client: ClientsOpt = None, federation: o.FederationOpt = None) -> Record:
    """Show where a federation stands, and what is missing for the open round.

    fedlpp status runs/demo --client north --client south
    """
    from fedlpp_cli.steps.status import status as step

    return step(run, clients=client or tuple(read_settings(federation).file.clients))
