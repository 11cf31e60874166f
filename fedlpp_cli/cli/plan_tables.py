"""Plans as people read them."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, number, size, table


def plan(result: Any) -> Iterable[Block]:
    """What everything is compared with, groups of tensors, settings, and the choice."""
    report = result.plan
    name = report.headline
    yield facts([
        ("rows", f"{report.n_examples} to measure on"),
        ("rounds", f"{report.n_rounds} with {report.n_clients} clients"),
        (f"{name} of base", number(report.base.get(name))),
        (f"{name} without rounding", number(report.plain.get(name))),
        ("report", result.report),
    ])  # fmt: skip
    if report.groups:
        yield from _groups(report.groups)
    yield from _settings(report)
    yield from _simulated(report)
    yield report.verdict


def _groups(groups: Any) -> Iterable[Block]:
    head = ("only this is rounded", "bits", "size", "loss +", "gradient change", "cosine", "score")
    rows = [
        (
            row.group, row.bits, size(row.n_bytes), number(row.loss_increase), number(row.gradient_change),
            number(row.cosine), number(row.score),
        )
        for row in groups
    ]  # fmt: skip
    yield table(head, rows)


def _settings(report: Any) -> Iterable[Block]:
    """Every setting, at the adapter of the federation without rounding."""
    name = report.headline
    head = ("setting", "down", "up", f"proxy's {name}", "trained on", "cosine", "score")
    rows = [
        (
            row.label, size(row.bytes_down), size(row.bytes_up), number(row.proxy.get(name)),
            number(row.tuned.get(name)), number(row.cosine), number(row.score),
        )
        for row in _ordered(report)
    ]  # fmt: skip
    yield table(head, rows)


def _simulated(report: Any) -> Iterable[Block]:
    """What the rounds of some settings ended in, and why those of others were not played."""
    name = report.headline
    chosen = None if report.chosen is None else report.rows[report.chosen]
    head = ("simulated", "", "down", f"owner's {name}", "rho newest", "rho mean", "95 % of the larger")
    rows = [
        (
            row.label,
            "chosen" if row is chosen else "*" if row.on_front else "",
            size(row.bytes_down), number(row.central[name]), _ratio(row.rho_newest), _ratio(row.rho_mean),
            None if row.rho_interval is None else f"{row.rho_interval.low:.2f} to {row.rho_interval.high:.2f}",
        )
        for row in _ordered(report) if row.central
    ]  # fmt: skip
    if rows:
        yield table(head, rows, text_columns=2)
    if any(row.on_front for row in report.rows):
        yield "* no other simulated setting is as good in bytes down, the owner's loss and rho"
    for reason in sorted({row.skipped for row in report.rows if row.skipped}):
        yield f"{reason}: {'; '.join(row.label for row in report.rows if row.skipped == reason)}"


def _ordered(report: Any) -> list[Any]:
    return sorted(report.rows, key=lambda row: -row.bytes_down)


def _ratio(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
