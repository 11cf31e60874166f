"""From a story to a page: which sections there are, in which order, and what stands above them."""

from collections.abc import Iterator

from fedlpp_cli.records.audits import AuditReport
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.reporting.content import Missing, Page, Section
from fedlpp_cli.reporting.figures import Figure, Plot, Rows
from fedlpp_cli.reporting.scales import value_text, value_texts
from fedlpp_cli.reporting.score_table import score_tables
from fedlpp_cli.reporting.sections.audits import audits
from fedlpp_cli.reporting.sections.budget import budget
from fedlpp_cli.reporting.sections.clients import clients
from fedlpp_cli.reporting.sections.frontier import frontier
from fedlpp_cli.reporting.sections.lineage import lineage
from fedlpp_cli.reporting.sections.losses import losses
from fedlpp_cli.reporting.sections.norms import norms
from fedlpp_cli.reporting.sections.other import others
from fedlpp_cli.reporting.sections.scores import scores
from fedlpp_cli.reporting.story import Story, rounds_with_reports
from fedlpp_cli.reporting.words import counted, short, task_text

_IN_ORDER = (scores, audits, frontier, others, losses, clients, norms, budget, lineage)


def compose(story: Story) -> Page:
    """The page about a run, about reports, or about both."""
    sections: list[Section] = []
    missing: list[Missing] = []
    for make in _IN_ORDER:
        made = make(story)
        for one in made if isinstance(made, list) else [made]:
            if isinstance(one, Section):
                sections.append(one)
            elif one is not None:
                missing.append(one)
    return Page(
        title=_title(story),
        lead=_lead(story),
        verdict=_verdict(story),
        key=tuple(_key(story)),
        sections=tuple(sections),
        missing=tuple(missing),
    )


def figures_of(page: Page) -> list[Figure]:
    """All figures, in order."""
    return [part for section in page.sections for part in section.parts if isinstance(part, Plot | Rows)]


def _title(story: Story) -> str:
    if story.federation is not None:
        return f"Federation {short(story.federation)}"
    return f"Report {story.reports[0].name}" if story.reports else "Report"


def _lead(story: Story) -> str:
    words: list[str] = []
    if story.rounds:
        words.append(counted(sum(one.number > 0 for one in story.rounds if one.master is not None), "finished round"))
    if story.clients:
        words.append(counted(len(story.clients), "client"))
    if story.model is not None:
        base, lora = story.model.base, story.model.lora
        words.append(f"{'private' if base.private else 'public'} base, {base.model_type}")
        words += [task_text(story.model.task), f"LoRA of rank {lora.rank}"]
    bits = [one.bits for one in story.rounds if one.bits is not None]
    if bits:
        words.append("proxy in full precision" if bits[-1] == "full" else f"proxy at {_bits(bits[-1])}")
    return " · ".join(words or _lead_of_reports(story))


def _lead_of_reports(story: Story) -> list[str]:
    """Of a page without a run: what the reports are, and what their first one is about."""
    kinds = dict.fromkeys(str(one.header.spec.__struct_config__.tag) for one in story.reports)
    words = [f"report of {kind}" for kind in kinds]
    spec = story.reports[0].header.spec if story.reports else None
    task, n_examples = getattr(spec, "task", None), getattr(spec, "n_examples", None)
    if isinstance(task, TaskSpec):
        words.append(task_text(task))
    if isinstance(n_examples, int):
        words.append(counted(n_examples, "row"))
    return words


def _bits(bits: str) -> str:
    return bits if bits == "ternary" else f"{bits} bits"


def _verdict(story: Story) -> str:
    """The newest audit's; a run without one is told so in plain words."""
    audited = story.of(AuditReport)
    if audited:
        given, newest = max(audited, key=lambda one: one[1].n_rounds)
        return newest.verdict if len(audited) == 1 else f"{given.name}: {newest.verdict}"
    other = next((str(found) for one in story.reports if (found := getattr(one.header.spec, "verdict", None))), None)
    if other is not None:
        return other
    if not story.rounds:
        return ""
    return "Not audited: nothing on this page says how much of the owner's model clients can recover."


def _key(story: Story) -> Iterator[tuple[str, str]]:
    audit = max((audit for _, audit in story.of(AuditReport)), key=lambda audit: audit.n_rounds, default=None)
    yield from _headlines(story, audit)
    if audit is not None and audit.worst is not None and audit.worst < len(audit.rows):
        worst = audit.rows[audit.worst]
        if worst.rho is not None:
            yield value_texts([worst.rho], 3)[0], f"recovery ratio, worst attack: {worst.attack}"
    n_bytes = max(story.bytes_until.values(), default=audit.bytes_down if audit is not None else None)
    if n_bytes is not None:
        yield value_text(n_bytes, "bytes"), "sent to each client so far"
    told = rounds_with_reports(story.rounds)
    if told:
        n_left_out = sum(len(report.rejected) for _, report in told)
        n_all = n_left_out + sum(len(report.clients) for _, report in told)
        yield value_text(n_left_out), f"left out of {counted(n_all, 'update')}"
        privacy = told[-1][1].client_privacy
        if privacy is not None:
            yield value_text(privacy.epsilon), f"epsilon for whole clients, at delta {privacy.delta:g}"


def _headlines(story: Story, audit: AuditReport | None) -> Iterator[tuple[str, str]]:
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
