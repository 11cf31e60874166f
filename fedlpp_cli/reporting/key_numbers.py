"""The few numbers that matter most, for the top of the page."""

from collections.abc import Iterator

from fedlpp_cli.records.audits import AuditReport, UpdateAuditReport
from fedlpp_cli.records.plans import PlanReport
from fedlpp_cli.reporting.scales import value_text, value_texts
from fedlpp_cli.reporting.score_table import score_tables
from fedlpp_cli.reporting.story import Story, rounds_with_reports
from fedlpp_cli.reporting.words import counted

_Key = Iterator[tuple[str, str]]


def key_numbers(story: Story) -> _Key:
    """Values and what they are: of the run and the audit of its model; without either of a plan, or of an update."""
    audit = max((audit for _, audit in story.of(AuditReport)), key=lambda audit: audit.n_rounds, default=None)
    yield from _headlines(story, audit)
    if audit is not None and audit.worst is not None and audit.worst < len(audit.rows):
        worst = audit.rows[audit.worst]
        if worst.rho is not None:
            yield value_texts([worst.rho], 3)[0], f"recovery ratio, worst attack: {worst.attack}"
    n_bytes = max(story.bytes_until.values(), default=audit.bytes_down if audit is not None else None)
    if n_bytes is not None:
        yield value_text(n_bytes, "bytes"), "sent to each client so far"
    yield from _of_rounds(story)
    if not story.rounds and audit is None:
        for _, plan in story.of(PlanReport)[:1]:
            yield from _of_plan(plan)
        for _, update in story.of(UpdateAuditReport)[:1]:
            yield from _of_update(update)


def _headlines(story: Story, audit: AuditReport | None) -> _Key:
    """How good the newest models are: as evaluated, else as the audit has it."""
    roles = ("central", "proxy", "base")
    found: dict[str, float] = {}
    name = ""
    for table in score_tables(story)[:1]:
        name = table.headline
        found = {role: table.value(row) for role in roles if (row := table.newest(role)) is not None}
    if not found and audit is not None:
        name = audit.headline
        found = {role: getattr(audit, role)[name] for role in roles if name in getattr(audit, role)}
    for role, words in zip(found, value_texts(list(found.values()), 3), strict=True):
        yield words, f"{name}, {role}"


def _of_rounds(story: Story) -> _Key:
    told = rounds_with_reports(story.rounds)
    if not told:
        return
    n_left_out = sum(len(report.rejected) for _, report in told)
    n_all = n_left_out + sum(len(report.clients) for _, report in told)
    yield value_text(n_left_out), f"left out of {counted(n_all, 'update')}"
    privacy = told[-1][1].client_privacy
    if privacy is not None:
        yield value_text(privacy.epsilon), f"epsilon for whole clients, at delta {privacy.delta:g}"


def _of_plan(plan: PlanReport) -> _Key:
    """The chosen setting beside the federation without rounding."""
    name = plan.headline
    row = None if plan.chosen is None else plan.rows[plan.chosen]
    if row is not None:
        if row.rho is not None:
            yield value_texts([row.rho], 3)[0], "recovery ratio of what is chosen"
        yield value_text(row.bytes_down, "bytes"), "to each client in a round"
    models = [("chosen", row.central if row is not None else {}), ("without rounding", plan.plain), ("base", plan.base)]
    found = [(words, scores[name]) for words, scores in models if name in scores]
    for (words, _), value in zip(found, value_texts([value for _, value in found], 3), strict=True):
        yield value, f"{name}, {words}"


def _of_update(update: UpdateAuditReport) -> _Key:
    if update.membership.auc is not None:
        yield value_texts([update.membership.auc], 3)[0], "AUC of telling its rows from others; 0.5 is chance"
    for test in update.canaries:
        noise = "without noise" if test.noise_multiplier is None else f"noise {value_text(test.noise_multiplier)}"
        yield value_texts([test.exposure_mean], 3)[0], f"bits of exposure, {noise}; 1.44 is chance"
    promised = None if update.privacy is None else update.privacy.epsilon
    yield "none" if promised is None else value_text(promised), "epsilon that it promises for single rows"
