"""Figures by matplotlib, which the extra `report` installs: the data, colours, markers and dashes of `svg.py`."""

import io
import warnings
from typing import Any, Final

from fedlpp_cli.errors import UsageError
from fedlpp_cli.reporting.figures import Figure, Level, Plot, Rows, Series
from fedlpp_cli.reporting.markup import cut, plain
from fedlpp_cli.reporting.palette import Marker, Style, style_of
from fedlpp_cli.reporting.scales import Scale, scale_of, value_text

_MARKERS: Final[dict[Marker, str]] = {
    "circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "x", "plus": "P", "ring": "o",
}  # fmt: skip
_DOTS_PER_INCH: Final = 160


def check_matplotlib() -> None:
    """Refuse before any work.

    Raises:
        UsageError: matplotlib is not installed.
    """
    _matplotlib()


def png_of(figure: Figure) -> bytes:
    """The drawing as PNG; equal bytes for equal figures under one version of matplotlib and its fonts.

    Raises:
        UsageError: matplotlib is not installed.
    """
    mpl = _matplotlib()
    # A letter that the font lacks is drawn as a box; that is no reason to say something on the terminal.
    with (
        warnings.catch_warnings(action="ignore"),
        mpl.rc_context({"text.usetex": False, "text.parse_math": False, "font.size": 9}),
    ):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Drawing

        height = 4.2 if isinstance(figure, Plot) else 1.6 + 0.27 * len(figure.rows)
        drawing = Drawing(figsize=(7.6, height), layout="constrained", dpi=_DOTS_PER_INCH)
        FigureCanvasAgg(drawing)
        axes = drawing.add_subplot()
        if isinstance(figure, Plot):
            _plot(figure, axes)
        else:
            _rows(figure, axes)
        axes.set_title(plain(figure.title), loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.BytesIO()
        drawing.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _matplotlib() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError(
            "--plot-format png: matplotlib is not installed here",
            hint="pip install 'fedlpp[report]', or --plot-format svg",
        ) from None
    return mpl


def _plot(plot: Plot, axes: Any) -> None:
    points = [point for series in plot.series for point in series.points]
    reach = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    x = scale_of(plot.x, (point.x for point in points), 8)
    y = scale_of(plot.y, [*reach, *(level.value for level in plot.levels)])
    for series in plot.series:
        _series(series, axes)
    for level in plot.levels:
        axes.axhline(level.value, color="black", linestyle=":", linewidth=1)
        axes.annotate(
            _name(level.label),
            (1.01, level.value),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
    _along(axes.xaxis, axes.set_xlim, axes.set_xlabel, x)
    _along(axes.yaxis, axes.set_ylim, axes.set_ylabel, y)
    axes.grid(axis="y", alpha=0.2)
    if len(plot.series) > 1:
        axes.legend(frameon=False, loc="best")


def _series(series: Series, axes: Any) -> None:
    style = style_of(series.style)
    colour, marker = style.colour or "black", _marker(style)
    xs, ys = [point.x for point in series.points], [point.y for point in series.points]
    spans = [(p.x, p.y, p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
    if series.is_line:
        dash = tuple(float(length) for length in style.dash.split())
        axes.plot(
            xs,
            ys,
            color=colour,
            linestyle=(0, dash) if dash else "-",
            label=_name(series.name),
            linewidth=1.6,
            **marker,
        )
    else:
        axes.plot(xs, ys, color=colour, linestyle="none", label=_name(series.name), **marker)
    if series.is_line and len(spans) > 1:
        axes.fill_between(
            [s[0] for s in spans], [s[2] for s in spans], [s[3] for s in spans], color=colour, alpha=0.16, linewidth=0
        )
    else:
        for at, _, low, high in spans:
            axes.vlines(at, low, high, color=colour, linewidth=1.2)


def _rows(figure: Rows, axes: Any) -> None:
    ends = [end for row in figure.rows for end in (row.value, row.low, row.high) if end is not None]
    x = scale_of(figure.x, [*ends, *(level.value for level in figure.levels)], 6)
    for place, row in enumerate(figure.rows):
        style = style_of(row.style)
        colour = style.colour or "black"
        if figure.kind == "bar":
            axes.barh(place, row.value, height=0.6, color=colour)
        else:
            axes.plot([row.value], [place], color=colour, linestyle="none", **_marker(style))
        if row.low is not None and row.high is not None:
            axes.hlines(place, row.low, row.high, color=colour, linewidth=1.4)
        axes.annotate(
            value_text(row.value, figure.x.unit), (1.01, place), xycoords=("axes fraction", "data"), va="center"
        )
    for level in figure.levels:
        _upright(level, axes)
    axes.set_yticks(range(len(figure.rows)), [_name(row.label) for row in figure.rows])
    axes.set_ylim(len(figure.rows) - 0.5, -0.5 - bool(figure.levels))
    _along(axes.xaxis, axes.set_xlim, axes.set_xlabel, x)
    axes.grid(axis="x", alpha=0.2)


def _upright(level: Level, axes: Any) -> None:
    axes.axvline(level.value, color="black", linestyle=":", linewidth=1)
    axes.annotate(
        _name(level.label), (level.value, -0.95), ha="center", va="center", fontsize=8, backgroundcolor="white"
    )


def _along(axis: Any, limit: Any, name: Any, scale: Scale) -> None:
    axis.set_ticks(list(scale.ticks), labels=list(scale.texts))
    limit(scale.low, scale.high)
    name(plain(scale.label))


def _name(words: str) -> str:
    return cut(plain(words), 40)


def _marker(style: Style) -> dict[str, Any]:
    filled = "none" if style.marker == "ring" else "full"
    return {"marker": _MARKERS[style.marker], "fillstyle": filled, "markersize": 5, "clip_on": False}
