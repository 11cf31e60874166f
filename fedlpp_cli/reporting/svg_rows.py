"""Named values as SVG, one below the other: bars, or dots with intervals."""

from collections.abc import Sequence
from typing import Final

from fedlpp_cli.reporting.figures import Level, Rows
from fedlpp_cli.reporting.marks import (
    INK,
    LETTER,
    LINE,
    WIDTH,
    Area,
    axis_rule,
    level_rule,
    marker,
    rule,
    whisker,
    write,
)
from fedlpp_cli.reporting.markup import cut, tag
from fedlpp_cli.reporting.palette import STYLES, style_of
from fedlpp_cli.reporting.scales import Scale, scale_of, value_texts

_ROW: Final = 26.0  # height of one


def rows_inside(figure: Rows) -> tuple[str, float]:
    """The strokes, and the height that they take in pixels."""
    values = [end for row in figure.rows for end in (row.value, row.low, row.high) if end is not None]
    x = scale_of(figure.x, [*values, *(level.value for level in figure.levels)], 6)
    told = _told(figure)
    area = Area(
        left=18 + min(38, max((len(row.label) for row in figure.rows), default=0)) * LETTER,
        top=0.0,
        right=WIDTH - 22 - max((len(words) for words in told), default=0) * LETTER,
        bottom=0.0,
    )
    heads, head_height = _heads(figure.levels, x, area)
    area = Area(area.left, head_height + 6, area.right, head_height + 6 + _ROW * len(figure.rows))
    parts = [heads]
    for tick, words in zip(x.ticks, x.texts, strict=True):
        at = x.place(tick, area.left, area.right)
        parts.append(rule((at, area.top), (at, area.bottom)))
        parts.append(write(words, at, area.bottom + 18, anchor="middle"))
    for level in figure.levels:
        at = x.place(level.value, area.left, area.right)
        parts.append(level_rule((at, area.top - 4), (at, area.bottom)))
    for number, (row, words) in enumerate(zip(figure.rows, told, strict=True)):
        middle = area.top + _ROW * (number + 0.5)
        parts.append(write(cut(row.label, 38), area.left - 10, middle + 4, anchor="end"))
        parts.append(_mark_row(figure, number, x, area, middle))
        parts.append(write(words, WIDTH - 8, middle + 4, anchor="end"))
    parts.append(axis_rule((area.left, area.bottom), (area.right, area.bottom)))
    parts.append(write(x.label, (area.left + area.right) / 2, area.bottom + 38, anchor="middle"))
    return "".join(parts), area.bottom + 46


def _mark_row(figure: Rows, number: int, x: Scale, area: Area, middle: float) -> str:
    row = figure.rows[number]
    style = style_of(row.style)
    colour = style.colour or INK
    at = x.place(row.value, area.left, area.right)
    parts = []
    if figure.kind == "bar":
        zero = x.place(0.0, area.left, area.right)
        parts.append(tag("rect", x=min(zero, at), y=middle - 8, width=max(abs(at - zero), 0.5), height=16, fill=colour))
    if row.low is not None and row.high is not None:
        low, high = (x.place(end, area.left, area.right) for end in (row.low, row.high))
        parts.append(whisker(middle, low, high, colour, lying=True))
    if figure.kind == "dot":
        parts.append(marker(style.marker, at, middle, colour, size=5.0, told=row.label))
    return tag("g", "".join(parts), class_=f"s{row.style % len(STYLES)}")


def _heads(levels: Sequence[Level], x: Scale, area: Area) -> tuple[str, float]:
    """What vertical lines mean, above them, on as many lines as it takes; and the height."""
    ends: list[float] = []
    parts = []
    for level in sorted(levels, key=lambda one: (one.value, one.label)):
        width = len(level.label) * LETTER
        wanted = x.place(level.value, area.left, area.right) - width / 2
        left = min(max(wanted, 4.0), WIDTH - width - 4)
        line = next((line for line, end in enumerate(ends) if end + 12 <= left), len(ends))
        ends[line : line + 1] = [left + width]
        parts.append(write(level.label, left, 14 + line * LINE))
    return "".join(parts), len(ends) * LINE + 4 if ends else 0.0


def _told(figure: Rows) -> list[str]:
    """Each value, and its interval, as words."""
    n_rows = len(figure.rows)
    ends = [row.value for row in figure.rows], [row.low for row in figure.rows], [row.high for row in figure.rows]
    texts = value_texts([end for column in ends for end in column], 3)
    return [
        value if not low or not high else f"{value} [{low}, {high}]"
        for value, low, high in zip(texts[:n_rows], texts[n_rows : 2 * n_rows], texts[2 * n_rows :], strict=True)
    ]
