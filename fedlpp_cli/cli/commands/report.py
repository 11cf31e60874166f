"""`fedlpp report`."""

from typing import Annotated, Literal

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.records.record import Record

SourcesArg = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|[NAME=]REPORT...",
        help="A run folder, report files (of evaluate, audit, ...), or both; a name in front tells reports apart.",
        show_default=False,
    ),
]
PlotsOpt = Annotated[
    str | None, typer.Option("--plots", metavar="FOLDER", help="Write each figure there, too.", show_default=False)
]
PlotFormatOpt = Annotated[
    Literal["svg", "png"], typer.Option("--plot-format", help="Of those files; png takes the extra report.")
]


def report(
    sources: SourcesArg,
    out: o.OutOpt,
    plots: PlotsOpt = None,
    plot_format: PlotFormatOpt = "svg",
    force: o.ForceOpt = False,
) -> Record:
    """Make one HTML page of a run: scores, privacy, clients, updates, lineage. It opens offline and prints.

    fedlpp report runs/demo --out report.html --plots figures
    fedlpp report runs/demo 3bits=audit-3.json 2bits=audit-2.json --out report.html
    fedlpp report audit.json --out audit.html
    """
    from fedlpp_cli.steps.report import report as step

    return step(sources, out=out, plots=plots, plot_format=plot_format, force=force, on_progress=on_progress)
