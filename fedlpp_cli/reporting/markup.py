"""Text and elements of HTML and SVG. Whatever an artifact says goes through `text`: it can be a stranger's."""

import html
import re
from typing import Final

from fedlpp_cli.printable import printable

# What no XML may hold, and `printable` leaves.
_NO_CHARACTERS: Final = re.compile("[\ufffe\uffff]")


def plain(value: object) -> str:
    """The value without control characters, or any that XML may not hold."""
    return _NO_CHARACTERS.sub("\ufffd", printable(str(value)))


def text(value: object) -> str:
    """The value as text that is nothing but text: no element, no attribute's end, no control character."""
    return html.escape(plain(value))


def tag(element: str, inside: str = "", **attributes: object) -> str:
    """An element. `inside` is markup already, attributes are not: "class_" is class, "stroke_width" stroke-width."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{element}{given}>{inside}</{element}>"


def cut(value: str, n_characters: int) -> str:
    """The text, or its start with an ellipsis where it is longer."""
    return value if len(value) <= n_characters else value[: n_characters - 1] + "…"


def _number(value: object) -> object:
    """Places on paper to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
