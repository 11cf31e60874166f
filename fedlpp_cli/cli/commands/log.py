"""`fedlpp log`."""

from typing import Annotated

import typer

from fedlpp_cli.records.record import Record

RunArg = Annotated[str, typer.Argument(metavar="RUN", help="The folder that holds round-0000.", show_default=False)]


def log(run: RunArg) -> Record:
    """Show the chain of a federation, round by round.

    fedlpp log runs/demo
    """
    from fedlpp_cli.steps.log import log as step

    return step(run)
