"""Values over values as SVG: lines with bands, clouds of points, levels to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.reporting.figures import Level, Plot, Point, Series
from fedlpp_cli.reporting.marks import (
    INK,
    LETTER,
    LINE,
    WIDTH,
    Area,
    Spot,
    axis_rule,
    band,
    dots,
    level_rule,
    marker,
    path,
    rule,
    whisker,
    write,
)
from fedlpp_cli.reporting.markup import cut, tag
from fedlpp_cli.reporting.palette import STYLES, style_of
from fedlpp_cli.reporting.scales import Scale, scale_of, spread, value_text

_HEIGHT: Final = 300.0  # of the area
_INSET: Final = 22.0  # from the area's sides to the first and the last round
_BESIDE: Final = 8.0  # from one cloud to the next, where several stand at one round
_MAX_MARKERS: Final = 400  # more are dots without names
_MAX_NAME: Final = 30
_MAX_KEY: Final = 44


@dataclass(frozen=True, slots=True)
class _Frame:
    """Axes on paper. `inset`: how far from the area's sides the x axis has its ends."""

    x: Scale
    y: Scale
    area: Area
    inset: float

    def across(self, value: float) -> float:
        return self.x.place(value, self.area.left + self.inset, self.area.right - self.inset)

    def up(self, value: float) -> float:
        return self.y.place(value, self.area.bottom, self.area.top)

    def end_of(self, series: Series) -> Spot:
        return self.across(series.points[-1].x), self.up(series.points[-1].y)


def plot_inside(plot: Plot) -> tuple[str, float]:
    """The strokes, and the height that they take in pixels."""
    points = [point for series in plot.series for point in series.points]
    x = scale_of(plot.x, (point.x for point in points), 8)
    y = scale_of(plot.y, [*_reach(points), *(level.value for level in plot.levels)])
    last = max((point.x for point in points), default=0.0)
    # A line is named where it ends, if that is at the right; what is named there is not in the key.
    named = [one for one in plot.series if one.is_line and one.points and one.points[-1].x == last]
    key, key_height = _key([one for one in plot.series if one.points and one not in named])
    widest = max((min(len(name), _MAX_NAME) for name in _names(named, plot.levels)), default=0)
    area = Area(
        left=34 + max(24.0, LETTER * max(len(one) for one in y.texts)),
        top=key_height + 12,
        right=WIDTH - 14 - (widest * LETTER + 22 if widest else 0.0),
        bottom=key_height + 12 + _HEIGHT,
    )
    frame = _Frame(x, y, area, _INSET if plot.x.unit == "count" else 0.0)
    parts = [key, _grid(frame)]
    parts += [_level(level, frame) for level in plot.levels]
    parts += [_series(series, frame, shift) for series, shift in _shifted(plot)]
    parts.append(_end_labels(named, plot.levels, frame))
    return "".join(parts), area.bottom + 50


def _names(named: Sequence[Series], levels: Sequence[Level]) -> list[str]:
    return [*(series.name for series in named), *(level.label for level in levels)]


def _shifted(plot: Plot) -> list[tuple[Series, float]]:
    """What is drawn, clouds first, and how far beside its place: points of several clients share a round."""
    clouds = [series for series in plot.series if not series.is_line and series.points]
    beside = _BESIDE if plot.x.unit == "count" else 0.0
    shifted = [(series, beside * (number - (len(clouds) - 1) / 2)) for number, series in enumerate(clouds)]
    return [*shifted, *((series, 0.0) for series in plot.series if series.is_line and series.points)]


def _grid(frame: _Frame) -> str:
    """Ticks, what is written at them, and what the axes are."""
    area, parts = frame.area, []
    for tick, words in zip(frame.y.ticks, frame.y.texts, strict=True):
        at = frame.up(tick)
        parts.append(rule((area.left, at), (area.right, at)))
        parts.append(write(words, area.left - 8, at + 4, anchor="end"))
    for tick, words in zip(frame.x.ticks, frame.x.texts, strict=True):
        at = frame.across(tick)
        parts.append(axis_rule((at, area.bottom), (at, area.bottom + 5)))
        parts.append(write(words, at, area.bottom + 20, anchor="middle"))
    parts.append(axis_rule((area.left, area.bottom), (area.right, area.bottom)))
    middle = (area.top + area.bottom) / 2
    parts.append(write(frame.x.label, (area.left + area.right) / 2, area.bottom + 42, anchor="middle"))
    label = write(frame.y.label, 0.0, 0.0, anchor="middle")
    return "".join([*parts, tag("g", label, transform=f"translate(16 {middle:g}) rotate(-90)")])


def _series(series: Series, frame: _Frame, shift: float) -> str:
    style = style_of(series.style)
    colour = style.colour or INK
    spots = [(frame.across(point.x) + shift, frame.up(point.y)) for point in series.points]
    spans = [
        (at, frame.up(point.low), frame.up(point.high))
        for (at, _), point in zip(spots, series.points, strict=True)
        if point.low is not None and point.high is not None
    ]
    parts = []
    if series.is_line and len(spans) > 1:
        parts.append(band(spans, colour))
    else:
        parts += [whisker(at, low, high, colour) for at, low, high in spans]
    if series.is_line and len(spots) > 1:
        parts.append(path(spots, colour, style.dash))
    size = 4.5 if len(spots) <= 40 else 2.5
    if len(spots) > _MAX_MARKERS:
        return tag("g", "".join([*parts, dots(spots, colour)]), class_=f"s{series.style % len(STYLES)}")
    parts += [
        marker(style.marker, *spot, colour, size=size, told=f"{series.name}: {value_text(point.y)}")
        for spot, point in zip(spots, series.points, strict=True)
    ]
    return tag("g", "".join(parts), class_=f"s{series.style % len(STYLES)}")


def _level(level: Level, frame: _Frame) -> str:
    at = frame.up(level.value)
    return level_rule((frame.area.left, at), (frame.area.right, at))


def _end_labels(named: Sequence[Series], levels: Sequence[Level], frame: _Frame) -> str:
    """Names right of where lines end, moved apart where they would cover each other, with a stroke to the end."""
    right = frame.area.right
    ends = [(*frame.end_of(series), series.style) for series in named]
    ends += [(right, frame.up(level.value), -1) for level in levels]
    places = spread([at for _, at, _ in ends], LINE, frame.area.top, frame.area.bottom)
    parts = []
    for name, (end, at, number), place in zip(_names(named, levels), ends, places, strict=True):
        style = None if number < 0 else style_of(number)
        colour = (style and style.colour) or INK
        sign = ""
        if place != at or end != right:
            sign += path([(end, at), (right + 3, place), (right + 8, place)], colour, "", width=0.8)
        if style is not None:
            sign += marker(style.marker, right + 13, place, colour, size=4.0, told=name)
        parts.append(tag("g", sign, class_=None if number < 0 else f"s{number % len(STYLES)}"))
        parts.append(write(cut(name, _MAX_NAME), right + (10 if style is None else 21), place + 4))
    return "".join(parts)


def _key(series: Sequence[Series]) -> tuple[str, float]:
    """Names of what has no end to write them at, above the plot, and the height that they take."""
    parts: list[str] = []
    at, line = 58.0, 0
    for one in series:
        width = LETTER * min(len(one.name), _MAX_KEY) + 34
        if at + width > WIDTH and at > 58:
            at, line = 58.0, line + 1
        style = style_of(one.style)
        colour, middle = style.colour or INK, 10 + line * LINE
        dash = path([(at - 6, middle), (at + 18, middle)], colour, style.dash) if one.is_line else ""
        sign = dash + marker(style.marker, at + 6, middle, colour, size=4.5, told=one.name)
        parts.append(tag("g", sign, class_=f"s{one.style % len(STYLES)}"))
        parts.append(write(cut(one.name, _MAX_KEY), at + 22, middle + 4))
        at += width + 8
    return "".join(parts), (line + 1) * LINE + 6 if parts else 0.0


def _reach(points: Sequence[Point]) -> list[float]:
    return [end for point in points for end in (point.y, point.low, point.high) if end is not None]
