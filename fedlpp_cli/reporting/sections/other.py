"""Reports of kinds that have no section of their own: their fields, as they are."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fedlpp_cli.records.audits import AuditReport, UpdateAuditReport
from fedlpp_cli.records.plans import PlanReport
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.reports import EvaluateReport
from fedlpp_cli.reporting.content import Facts, Listing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Cell, Table
from fedlpp_cli.reporting.story import Given, Story
from fedlpp_cli.reporting.words import short

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHOWN_ELSEWHERE: Final = (AuditReport, EvaluateReport, PlanReport, UpdateAuditReport)


def others(story: Story) -> list[Section]:
    """One section for each report."""
    return [_section(one) for one in story.reports if not isinstance(one.header.spec, _SHOWN_ELSEWHERE)]


def _section(given: Given) -> Section:
    plain = to_plain(given.header.spec)
    about = str(plain.pop("about", "report"))
    verdict = plain.pop("verdict", None)
    facts: list[tuple[str, Cell]] = []
    listings: list[Part] = []
    _walk(plain, "", facts, listings)
    parts: list[Part] = [Paragraph(str(verdict), "verdict")] if verdict else []
    return Section(f"{about.capitalize()}: {given.name}", (*parts, Facts(tuple(facts)), *listings))


def _walk(plain: Mapping[str, Any], name: str, facts: list[tuple[str, Cell]], listings: list[Part]) -> None:
    for key, value in plain.items():
        words = f"{name} {key.replace('_', ' ')}".strip()
        if isinstance(value, Mapping):
            _walk(value, words, facts, listings)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(isinstance(one, Mapping) for one in value):
                listings.append(Listing(words, _table(value)))
            elif value:
                facts.append((words, ", ".join(str(_cell(one)) for one in value)))
        else:
            facts.append((words, _cell(value)))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each field that says something, flat; a list in a cell is its words."""
    flat = [dict(_flat(row, "")) for row in rows]
    head = list(dict.fromkeys(key for row in flat for key, value in row.items() if value is not None))
    is_text = [all(isinstance(row.get(key), str | None) for row in flat) for key in head]
    head = [key for key, words in zip(head, is_text, strict=True) if words] + [
        key for key, words in zip(head, is_text, strict=True) if not words
    ]
    cells = tuple(tuple(row.get(key) for key in head) for row in flat)
    return Table(tuple(key.replace("_", " ") for key in head), cells, text_columns=sum(is_text))


def _flat(row: Mapping[str, Any], name: str) -> list[tuple[str, Cell]]:
    found: list[tuple[str, Cell]] = []
    for key, value in row.items():
        words = f"{name} {key}".strip()
        found += _flat(value, words) if isinstance(value, Mapping) else [(words, _cell(value))]
    return found


def _cell(value: object) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return short(value) if _DIGEST.fullmatch(value) else value
    return value if isinstance(value, int | float) else None
