"""`report`: a run, or reports, as one page that opens anywhere. Opens no model, loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.whole import check_absent, output_errors, whole_file, write_all
from fedlpp_cli.errors import UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.reporting.compose import compose, figures_of
from fedlpp_cli.reporting.figures import Figure
from fedlpp_cli.reporting.page import html_of
from fedlpp_cli.reporting.png import check_matplotlib, png_of
from fedlpp_cli.reporting.svg import svg_of
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.told import read_story

PlotFormat = Literal["svg", "png"]

_CONFIDENTIAL: Final = "a report tells of each client"


class ReportResult(Record, frozen=True, kw_only=True):
    """What was written. `plots`: the folder of figures, None for none. `missing`: sections that had no data."""

    path: str
    plots: str | None
    federation: str | None
    n_bytes: int
    sections: tuple[str, ...]
    figures: tuple[str, ...]
    missing: tuple[str, ...]


def report(
    sources: Sequence[RefLike],
    *,
    out: RefLike,
    plots: RefLike | None = None,
    plot_format: PlotFormat = "svg",
    force: bool = False,
    on_progress: Progress = silent,
) -> ReportResult:
    """Make a page of a run folder, of reports, or of both.

    Args:
        sources: at most one run folder, and any number of report files; "name=reference" gives a report a name.
            Reports in the run's folder, in its rounds' and in `reports/` are found by themselves.
        out: where the HTML file goes. It has what the owner's private reports have, so its mode is 0600.
        plots: a folder for the figures, one file each, of mode 0600; None for none. Other files in it stay.
        plot_format: "svg", or "png", which takes matplotlib.
        force: replace existing outputs.
        on_progress: told what is going on.

    Raises:
        UsageError: nothing to report on, two runs, or PNG without matplotlib.
        InputError, ArtifactError: a file that is missing, or no sound artifact.
        LineageError: artifacts of several federations, or a master that does not follow from the one before.
        OutputExistsError, OutputError, SecrecyError: as `store.destination`.
    """
    if not sources:
        raise UsageError("report needs a run folder or a report")
    if plots is not None and plot_format == "png":
        check_matplotlib()
    page_ref, plots_ref = parse_ref(out), None if plots is None else parse_ref(plots)
    with store.destination(page_ref, message="Report", force=force, confidential=_CONFIDENTIAL) as place:
        if plots_ref is not None and not isinstance(plots_ref, Path):
            raise UsageError(f"--plots {plots_ref}: figures go into a folder on this machine")
        story = read_story(sources, on_progress=on_progress)
        page = compose(story)
        figures = figures_of(page)
        data = html_of(page).encode("utf-8")
        if plots_ref is not None:
            paths = _plot_paths(plots_ref, figures, plot_format, force=force)
            _write_plots(figures, paths, plot_format, force=force)
        with whole_file(place.path, private=True, force=force) as descriptor, output_errors(place.path):
            write_all(descriptor, data, 0)
    return ReportResult(
        path=str(place.written),
        plots=None if plots_ref is None else str(plots_ref),
        federation=story.federation,
        n_bytes=len(data),
        sections=tuple(section.title for section in page.sections),
        figures=tuple(figure.name for figure in figures),
        missing=tuple(one.title for one in page.missing),
    )


def _plot_paths(folder: Path, figures: Sequence[Figure], plot_format: PlotFormat, *, force: bool) -> list[Path]:
    paths = [folder / f"{figure.name}.{plot_format}" for figure in figures]
    for path in paths:
        check_absent(path, force=force)
    return paths


def _write_plots(figures: Sequence[Figure], paths: Sequence[Path], plot_format: PlotFormat, *, force: bool) -> None:
    for figure, path in zip(figures, paths, strict=True):
        drawn = png_of(figure) if plot_format == "png" else svg_of(figure, alone=True).encode("utf-8") + b"\n"
        with whole_file(path, private=True, force=force) as descriptor, output_errors(path):
            write_all(descriptor, drawn, 0)
