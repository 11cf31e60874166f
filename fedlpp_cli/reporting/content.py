"""What a page is put together from. All of it is plain text and data; `page.py` makes HTML of it."""

from dataclasses import dataclass
from typing import Literal

from fedlpp_cli.reporting.figures import Cell, Figure, Table


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One or more sentences; a "verdict" stands out, a "note" stands back."""

    words: str
    kind: Literal["plain", "verdict", "note"] = "plain"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, without those that are None."""

    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A table under a title; a folded one opens when it is asked to."""

    title: str
    table: Table
    is_folded: bool = False


Part = Paragraph | Facts | Listing | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a title."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A section that there was nothing for, and how to get it."""

    title: str
    how: str


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. `lead`: what it is about, in a line. `key`: the few numbers that matter most, and what they are."""

    title: str
    lead: str
    verdict: str
    key: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    missing: tuple[Missing, ...]
