"""The strokes that figures are made of, in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.reporting.markup import tag, text
from fedlpp_cli.reporting.palette import Marker

Spot = tuple[float, float]

WIDTH: Final = 760.0  # of every drawing
LETTER: Final = 6.7  # pixels a letter at most, about, at 12 pixels
LINE: Final = 17.0  # from one line of text to the next
INK: Final = "currentColor"  # that of the text around, on a page


@dataclass(frozen=True, slots=True)
class Area:
    """Where the plot is, in pixels from the upper left."""

    left: float
    top: float
    right: float
    bottom: float


def marker(kind: Marker, x: float, y: float, colour: str, *, size: float, told: str) -> str:
    """A sign whose outline tells it apart where colours do not. `told` is shown where the mouse is."""
    about = tag("title", text(told))
    if kind in ("circle", "ring"):
        fill = colour if kind == "circle" else "none"
        return tag("circle", about, cx=x, cy=y, r=size, fill=fill, stroke=colour, stroke_width=1.6)
    if kind in ("cross", "plus"):
        a, b = (size, size) if kind == "cross" else (size * 1.3, 0.0)
        strokes = f"M{_at(x - a, y - b)}L{_at(x + a, y + b)}M{_at(x - b, y + a)}L{_at(x + b, y - a)}"
        return tag("path", about, d=strokes, stroke=colour, stroke_width=2.2, fill="none")
    corners: dict[str, list[Spot]] = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }
    points = " ".join(_at(x + dx * size, y + dy * size) for dx, dy in corners[kind])
    return tag("polygon", about, points=points, fill=colour)


def dots(spots: Sequence[Spot], colour: str) -> str:
    """Very many points as one stroke each; those at one place are drawn once."""
    places = dict.fromkeys(_at(*spot) for spot in spots)
    strokes = "".join(f"M{place}h0" for place in places)
    return tag("path", d=strokes, stroke=colour, stroke_width=4, stroke_linecap="round", fill="none")


def path(spots: Sequence[Spot], colour: str, dash: str, *, width: float = 2) -> str:
    """A line through all of them."""
    through = "M" + "L".join(_at(*spot) for spot in spots)
    return tag("path", d=through, stroke=colour, stroke_width=width, stroke_dasharray=dash or None, fill="none")


def band(spans: Sequence[tuple[float, float, float]], colour: str) -> str:
    """What lies between the ends of intervals, each (x, low, high)."""
    there = [_at(x, low) for x, low, _ in spans]
    back = [_at(x, high) for x, _, high in reversed(spans)]
    return tag("polygon", points=" ".join(there + back), fill=colour, fill_opacity=0.16)


def whisker(across: float, low: float, high: float, colour: str, *, lying: bool = False) -> str:
    """An interval with a stroke at each end, standing at x `across`, or lying at y `across`."""
    strokes = [(across, low, across, high), *((across - 4, end, across + 4, end) for end in (low, high))]
    if lying:
        strokes = [(y1, x1, y2, x2) for x1, y1, x2, y2 in strokes]
    through = "".join(f"M{_at(x1, y1)}L{_at(x2, y2)}" for x1, y1, x2, y2 in strokes)
    return tag("path", d=through, stroke=colour, stroke_width=1.6, fill="none")


def rule(start: Spot, stop: Spot, *, opacity: float = 0.16, dash: str = "", width: float = 1) -> str:
    """A straight line of the text's colour; faint, for a grid."""
    (x1, y1), (x2, y2) = start, stop
    return tag(
        "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=INK, stroke_width=width, stroke_opacity=opacity,
        stroke_dasharray=dash or None,
    )  # fmt: skip


def level_rule(start: Spot, stop: Spot) -> str:
    """The line of a value to compare with: dotted."""
    return rule(start, stop, opacity=0.75, dash="1 4", width=1.6)


def axis_rule(start: Spot, stop: Spot) -> str:
    """An axis, or a tick on it."""
    return rule(start, stop, opacity=0.7)


def write(words: str, x: float, y: float, *, anchor: str = "start", size: int = 12) -> str:
    """Words in one line; (x, y) is where their base line starts, has its "middle", or its "end"."""
    return tag("text", text(words), x=x, y=y, text_anchor=anchor, fill=INK, font_size=size if size != 12 else None)


def _at(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"
