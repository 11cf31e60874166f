"""`fedlpp budget`."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.records.record import Record

LedgerArg = Annotated[
    Path, typer.Argument(metavar="LEDGER", help="What client-train --ledger has kept.", show_default=False)
]


def budget(ledger: LedgerArg) -> Record:
    """Show what trainings with privacy for examples have cost a data set so far, and what is left.

    fedlpp budget notes.budget
    """
    from fedlpp_cli.steps.budget import budget as step

    return step(ledger)
