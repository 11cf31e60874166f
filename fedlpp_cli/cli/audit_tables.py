"""Audits as people read them: what is to be protected, who comes how near, and what that means."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, short, size, table


def audit(result: Any) -> Iterable[Block]:
    """The owner's audit."""
    report, lead = result.report, _interval(result.report.gain_interval)
    yield facts([
        ("federation", short(result.federation)),
        ("to protect", f"the master of round {result.round}, {short(result.sha256)}"),
        ("sent", f"{report.n_rounds} packages to each client, {size(report.bytes_down)}"),
        ("data", f"{report.n_examples} rows; predictions compared on {_first(report)}"),
        (report.headline, _standings(report)),
        ("lead", f"{report.gain:.4g} of central over base" + (f", {lead}" if lead else "")),
    ])  # fmt: skip
    done = [row for row in report.rows if row.skipped is None]
    for title, rows in (
        ("What counts for the verdict", [row for row in done if row.counts]),
        ("What does not", [row for row in done if not row.counts]),
    ):
        if rows:
            yield f"\n{title}"
            yield _attacks(report, rows)
    skipped = [row for row in report.rows if row.skipped is not None]
    if skipped:
        yield table(("not tried", "", "why"), [(r.attack, r.variant, r.skipped) for r in skipped], text_columns=3)
    yield (
        "rho: share of central's lead over base that the attacker has. A, B, B A: error of the attacker's numbers, "
        "relative.\nexact: share of them that it knows. KL, top 1: how its predictions differ from central's, in nats, "
        "and agree."
    )
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield f"\n{report.verdict}"


def _first(report: Any) -> str:
    return "all of them" if report.n_compared == report.n_examples else f"the first {report.n_compared}"


def _standings(report: Any) -> str:
    return ", ".join(f"{who} {getattr(report, who)[report.headline]:.4f}" for who in ("base", "proxy", "central"))


def _attacks(report: Any, rows: Sequence[Any]) -> Any:
    head = ("attack", "rho", "95 %", report.headline, "A", "B", "B A", "exact", "KL", "top 1")
    cells = [
        (
            f"{row.attack}: {row.variant}", None if row.rho is None else f"{row.rho:.2f}", _interval(row.rho_interval),
            f"{row.scores[report.headline]:.4f}", _two(row.error_a), _two(row.error_b), _two(row.error_product),
            _share(row.revealed), _two(row.kl), _share(row.agreement),
        )
        for row in rows
    ]  # fmt: skip
    made = table(head, cells)
    made.padding = (0, 1, 0, 0)
    for column in made.columns[1:]:
        column.no_wrap = True  # names of attacks give way
    return made


def _two(value: float | None) -> str | None:
    """Two significant digits."""
    return None if value is None else f"{value:.2g}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.0f} %"


def _interval(interval: Any) -> str | None:
    return None if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"
