"""What a figure shows, as data. `svg.py` draws it for the page, `png.py` with matplotlib.

Everything that is drawn is in the figure's table too, so that nobody needs to see the drawing.
"""

from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["number", "count", "bytes"]
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells. The first `text_columns` are words, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    text_columns: int = 1


@dataclass(frozen=True, slots=True)
class Axis:
    """What is along it, with its unit in words. A "count" has no ticks between whole numbers."""

    label: str
    unit: Unit = "number"
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A value; `low` and `high` are the ends of its interval, None for none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind, in the order of x. `style` is a number of `palette.STYLES`."""

    name: str
    style: int
    points: tuple[Point, ...]
    is_line: bool = True


@dataclass(frozen=True, slots=True)
class Level:
    """A value to compare with, drawn as a straight line across the plot."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Values over values. `name` is that of its file, `about` says in words what is to be seen."""

    name: str
    title: str
    about: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    table: Table = field(default_factory=lambda: Table((), ()))


@dataclass(frozen=True, slots=True)
class Row:
    """One value with a name; `low` and `high` as a point's."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    style: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Values by name, one below the other: bars from zero, or dots with intervals."""

    name: str
    title: str
    about: str
    x: Axis
    rows: tuple[Row, ...]
    kind: Literal["bar", "dot"] = "dot"
    levels: tuple[Level, ...] = ()
    table: Table = field(default_factory=lambda: Table((), ()))


Figure = Plot | Rows
