"""What attackers get: one section for each audit."""

from typing import Final

from fedlpp_cli.records.audits import AttackRow, AuditReport
from fedlpp_cli.reporting.content import Facts, Listing, Missing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Figure, Level, Row, Rows, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.story import Given, Story
from fedlpp_cli.reporting.words import counted, ends, short, with_interval

_HOLLOW: Final = 6  # the number of a style
LEAST, MOST = Level(0.0, "base"), Level(1.0, "owner's model")


def audits(story: Story) -> list[Section] | Missing | None:
    """One section each; None for a page on evaluations only."""
    found = story.of(AuditReport)
    if not found:
        return (
            Missing("Privacy of the model", "fedlpp audit RUN --data TEST --out RUN/audit.json")
            if story.rounds
            else None
        )
    return [_section(given, audit, number, len(found)) for number, (given, audit) in enumerate(found)]


def attack_name(row: AttackRow) -> str:
    """Kind and variant."""
    return f"{row.attack}, {row.variant}" if row.variant else row.attack


def _section(given: Given, audit: AuditReport, number: int, n_audits: int) -> Section:
    sent = f"{counted(audit.n_rounds, 'round')}, {value_text(audit.bytes_down, 'bytes')} to one client"
    parts: list[Part] = [
        Paragraph(audit.verdict, "verdict"),
        Facts((
            ("what was distributed", sent),
            ("data", f"{short(audit.data)}, {counted(audit.n_examples, 'row')}"),
            ("central ahead of base by", f"{with_interval(audit.gain, audit.gain_interval)} in {audit.headline}"),
            ("allowed recovery ratio", None if audit.max_rho is None else f"{value_text(audit.max_rho)} at most"),
        )),
    ]  # fmt: skip
    figure = _figure(audit, f"-{number + 1}" if number else "")
    if figure is None:
        parts.append(Paragraph("No attack has a recovery ratio: on these rows central is not told from base."))
    else:
        parts.append(figure)
    parts.append(Listing("Every attack", _table(audit), is_folded=figure is not None))
    skipped = [(attack_name(row), row.skipped) for row in audit.rows if row.skipped is not None]
    if skipped:
        parts.append(Listing("Not computed", Table(("attack", "why"), tuple(skipped), text_columns=2)))
    return Section("Privacy of the model" if n_audits == 1 else f"Privacy of the model: {given.name}", tuple(parts))


def _figure(audit: AuditReport, suffix: str) -> Figure | None:
    found = [(index, row, row.rho) for index, row in enumerate(audit.rows) if row.rho is not None]
    if not found:
        return None
    rows = [
        Row(attack_name(row), rho, *ends(row.rho_interval), style=_style(row, is_worst=index == audit.worst))
        for index, row, rho in sorted(found, key=lambda one: (-one[2], one[0]))
    ]
    levels = (LEAST, MOST) if audit.max_rho is None else (LEAST, Level(audit.max_rho, "allowed"), MOST)
    return Rows(
        name=f"recovery{suffix}",
        title="How much of the owner's model each attack recovers",
        about="The recovery ratio: 0 is the base model that everybody has, 1 is as good as the owner's model. With "
        "95 % intervals. The square is the largest that the verdict counts; what it does not count is hollow.",
        x=Axis("recovery ratio (share of central's advantage over base)"),
        rows=tuple(rows),
        levels=levels,
        table=Table(
            ("attack", "knows", "rho", "from", "to"),
            tuple(
                (attack_name(row), row.knows, rho, *ends(row.rho_interval))
                for _, row, rho in sorted(found, key=lambda one: (-one[2], one[0]))
            ),
            text_columns=2,
        ),
    )


def _style(row: AttackRow, *, is_worst: bool) -> int:
    return 1 if is_worst else 0 if row.counts else _HOLLOW


def _table(audit: AuditReport) -> Table:
    """Columns that no row fills are left out."""
    names = ["base", "proxy", "central"]
    own = [(name, "", "the owner" if name == "central" else "", getattr(audit, name)) for name in names]
    scores = sorted(
        {name for _, _, _, found in own for name in found} | {name for row in audit.rows for name in row.scores}
    )
    numbers = ("error_a", "error_b", "error_product", "revealed", "kl", "agreement")
    used = [name for name in numbers if any(getattr(row, name) is not None for row in audit.rows)]
    rows = [
        (row.attack, row.variant, row.knows, with_interval(row.rho, row.rho_interval),
         *(row.scores.get(name) for name in scores), *(getattr(row, name) for name in used))
        for row in audit.rows
    ]  # fmt: skip
    rows += [(name, "", about, None, *(found.get(score) for score in scores), *(None for _ in used))
             for name, _, about, found in own]  # fmt: skip
    heads = {"error_a": "error of A", "error_b": "error of B", "error_product": "error of B A", "kl": "KL (nats)"}
    head = ("model", "variant", "knows", "rho", *scores, *(heads.get(name, name) for name in used))
    return Table(head, tuple(rows), text_columns=3)
