"""The page as one HTML file: no script, nothing fetched, equal bytes for equal stories."""

from collections.abc import Sequence
from typing import Final

from fedlpp_cli.reporting.content import Facts, Listing, Page, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Cell, Figure, Plot, Rows, Table
from fedlpp_cli.reporting.markup import tag, text
from fedlpp_cli.reporting.scales import value_text, value_texts
from fedlpp_cli.reporting.style import CSS
from fedlpp_cli.reporting.svg import svg_of
from fedlpp_cli.version import __version__

# A browser that is asked to fetch or run anything by something that slipped through refuses.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CARE: Final = "It says what leaks, and tells of single clients: pass it on with care."
_LONGEST: Final = 400  # rows of a table that are shown
_SHORT: Final = 12  # rows of a table that is not torn apart on paper


def html_of(page: Page) -> str:
    """The whole file."""
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="fedlpp {text(__version__)}">\n'
        f"<title>{text(page.title)}</title>\n<style>{CSS}</style>"
    )
    body = "\n".join([
        "<main>",
        tag("header", tag("h1", text(page.title)) + tag("p", text(page.lead), class_="lead")),
        *([tag("p", text(page.verdict), class_="verdict")] if page.verdict else []),
        *([_key(page.key)] if page.key else []),
        *(_section(section, page.verdict) for section in page.sections),
        *([_missing(page)] if page.missing else []),
        tag("footer", f"Made by fedlpp {text(__version__)}. {_CARE}"),
        "</main>",
    ])  # fmt: skip
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _key(key: tuple[tuple[str, str], ...]) -> str:
    return tag(
        "ul", "".join(tag("li", tag("b", text(value)) + tag("span", text(what))) for value, what in key), class_="key"
    )


def _section(section: Section, verdict: str) -> str:
    """What stands above the page already is not said twice."""
    parts = [part for part in section.parts if not (isinstance(part, Paragraph) and part.words == verdict)]
    return tag("section", "\n".join([tag("h2", text(section.title)), *map(_part, parts)]))


def _part(part: Part) -> str:
    if isinstance(part, Paragraph):
        return tag("p", text(part.words), class_=None if part.kind == "plain" else part.kind)
    if isinstance(part, Facts):
        rows = [(name, _cell(value)) for name, value in part.rows if value is not None]
        return tag("dl", "".join(tag("dt", text(name)) + tag("dd", value) for name, value in rows)) if rows else ""
    if isinstance(part, Listing):
        table = _table(part.table)
        if part.is_folded:
            return tag("details", tag("summary", text(part.title)) + table)
        return tag("h3", text(part.title)) + table
    return _figure(part)


def _figure(figure: Figure) -> str:
    assert isinstance(figure, Plot | Rows)  # noqa: S101  # nothing else is left
    caption = tag("figcaption", tag("h3", text(figure.title)) + tag("p", text(figure.about)))
    numbers = tag("details", tag("summary", "The numbers") + _table(figure.table)) if figure.table.rows else ""
    drawing = tag("div", svg_of(figure), class_="scroll")  # letters stay readable where the screen is narrow
    return tag("figure", caption + drawing + numbers)


def _table(table: Table) -> str:
    """One that is wider than the page scrolls by itself. Columns that no row fills are left out."""
    used = [index for index in range(len(table.head)) if any(row[index] not in (None, "") for row in table.rows)]
    words = [index < table.text_columns for index in used]
    head = "".join(
        tag("th", text(table.head[index]), scope="col", class_=_class(is_text))
        for index, is_text in zip(used, words, strict=True)
    )
    shown = table.rows[:_LONGEST]
    columns = [_column([row[index] for row in shown]) for index in used]
    rows = (
        tag("tr", "".join(tag("td", cell, class_=_class(is_text)) for cell, is_text in zip(row, words, strict=True)))
        for row in zip(*columns, strict=True)
    )
    short = "short" if len(table.rows) <= _SHORT else None
    inside = tag("thead", tag("tr", head)) + tag("tbody", "\n".join(rows))
    made = tag("div", tag("table", inside, class_=short), class_="scroll")
    if len(shown) == len(table.rows):
        return made
    told = f"The first {len(shown):,} of {len(table.rows):,} rows; the artifacts have all of them."
    return made + tag("p", text(told), class_="note")


def _class(is_text: bool) -> str | None:
    return "w" if is_text else None


def _column(cells: Sequence[Cell]) -> list[str]:
    """Numbers with as many decimals as each other, counts as they are."""
    if any(isinstance(cell, str) for cell in cells) or not any(isinstance(cell, float) for cell in cells):
        return [_cell(cell) for cell in cells]
    return [text(one) for one in value_texts([None if isinstance(cell, str) else cell for cell in cells])]


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return text(cell) if isinstance(cell, str) else text(value_text(cell))


def _missing(page: Page) -> str:
    rows = [tag("dt", text(one.title)) + tag("dd", text(one.how)) for one in page.missing]
    return tag(
        "section", tag("h2", "Not on this page") + tag("p", "How to get what is missing:") + tag("dl", "".join(rows))
    )
