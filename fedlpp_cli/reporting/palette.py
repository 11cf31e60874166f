"""Colours that people with any colour vision tell apart, and a marker and a dash for each, for print in grey.

The colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), without yellow, which white paper swallows.
"""

from dataclasses import dataclass
from typing import Final, Literal

Marker = Literal["circle", "square", "triangle", "diamond", "cross", "plus", "ring"]


@dataclass(frozen=True, slots=True)
class Style:
    """How a series looks. `colour` None: that of the text, black on paper. `dash` is SVG's, "" for a whole line."""

    colour: str | None
    marker: Marker
    dash: str


STYLES: Final = (
    Style("#0072B2", "circle", ""),  # blue
    Style("#D55E00", "square", "7 3"),  # vermillion
    Style("#009E73", "triangle", "2 3"),  # bluish green
    Style("#CC79A7", "diamond", "9 3 2 3"),  # reddish purple
    Style("#E69F00", "cross", "12 4"),  # orange
    Style("#56B4E9", "plus", "4 2 1 2"),  # sky blue
    Style(None, "ring", "1 3"),
)


def style_of(number: int) -> Style:
    """The style of that number; they come again when they are used up, colour and marker in other pairs."""
    turn, index = divmod(number, len(STYLES))
    style, other = STYLES[index], STYLES[(index + turn) % len(STYLES)]
    return Style(style.colour, other.marker, other.dash)
