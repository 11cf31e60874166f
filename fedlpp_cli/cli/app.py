"""`fedlpp`: the root of the command line. A table of commands, and nothing that is slow to import."""

import os
from typing import Annotated

import typer

from fedlpp_cli.cli.boundary import FedlppGroup, command
from fedlpp_cli.cli.commands.aggregate import aggregate
from fedlpp_cli.cli.commands.audit import audit
from fedlpp_cli.cli.commands.budget import budget
from fedlpp_cli.cli.commands.client_train import client_train
from fedlpp_cli.cli.commands.distill import publish as distill_publish
from fedlpp_cli.cli.commands.distill import train as distill_train
from fedlpp_cli.cli.commands.evaluate import evaluate
from fedlpp_cli.cli.commands.export import export
from fedlpp_cli.cli.commands.import_adapter import import_adapter
from fedlpp_cli.cli.commands.init import init
from fedlpp_cli.cli.commands.inspect import inspect
from fedlpp_cli.cli.commands.keygen import keygen
from fedlpp_cli.cli.commands.log import log
from fedlpp_cli.cli.commands.methods import methods
from fedlpp_cli.cli.commands.pack import pack
from fedlpp_cli.cli.commands.plan import plan
from fedlpp_cli.cli.commands.quantize import quantize
from fedlpp_cli.cli.commands.report import report
from fedlpp_cli.cli.commands.simulate import simulate
from fedlpp_cli.cli.commands.status import status
from fedlpp_cli.cli.commands.verify import verify
from fedlpp_cli.version import __version__

OWNER = "Model owner"
CLIENT = "Data holder"
EITHER = "Either"


def _typer(name: str, text: str | None = None) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        cls=FedlppGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _typer("fedlpp")
distill = _typer(
    "distill", "Teach by answers to synthetic inputs: no parameters travel, no rows, and nobody aggregates."
)

for name, function, panel in (
    ("plan", plan, OWNER),
    ("init", init, OWNER),
    ("import", import_adapter, OWNER),
    ("quantize", quantize, OWNER),
    ("pack", pack, OWNER),
    ("client-train", client_train, CLIENT),
    ("budget", budget, CLIENT),
    ("aggregate", aggregate, OWNER),
    ("simulate", simulate, OWNER),
    ("evaluate", evaluate, EITHER),
    ("report", report, EITHER),
    ("audit", audit, EITHER),
    ("export", export, OWNER),
    ("keygen", keygen, EITHER),
    ("methods", methods, EITHER),
    ("inspect", inspect, EITHER),
    ("verify", verify, EITHER),
    ("status", status, EITHER),
    ("log", log, EITHER),
):
    command(app, name, panel=panel)(function)

command(distill, "distill publish")(distill_publish)
command(distill, "distill train")(distill_train)
app.add_typer(distill, rich_help_panel=EITHER)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedlpp {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune a model together without giving it, or your data, away, by exchanging files.

    One round: the owner runs quantize and pack; each data holder runs client-train; the owner runs aggregate.
    """


def main() -> None:
    """Entry point of the `fedlpp` program."""
    # bitsandbytes wraps functions in torch.compile while it is imported. That costs more than a second, and would
    # need a C++ compiler on the machine if one of them were called.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Threads that wait should sleep: spinning ones made two trainings side by side on two cores six times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
