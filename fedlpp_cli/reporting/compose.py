"""From a story to a page: which sections there are, in which order, and what stands above them."""

from typing import Final

from fedlpp_cli.records.audits import AuditReport
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.reporting.content import Missing, Page, Section
from fedlpp_cli.reporting.figures import Figure, Plot, Rows
from fedlpp_cli.reporting.key_numbers import key_numbers
from fedlpp_cli.reporting.sections.audits import audits
from fedlpp_cli.reporting.sections.budget import budget
from fedlpp_cli.reporting.sections.clients import clients
from fedlpp_cli.reporting.sections.frontier import frontier
from fedlpp_cli.reporting.sections.lineage import lineage
from fedlpp_cli.reporting.sections.losses import losses
from fedlpp_cli.reporting.sections.norms import norms
from fedlpp_cli.reporting.sections.other import others
from fedlpp_cli.reporting.sections.plans import plans
from fedlpp_cli.reporting.sections.scores import scores
from fedlpp_cli.reporting.sections.update_audits import update_audits
from fedlpp_cli.reporting.story import Story
from fedlpp_cli.reporting.words import counted, short, task_text

_IN_ORDER = (scores, audits, frontier, update_audits, plans, others, losses, clients, norms, budget, lineage)
_KINDS: Final = {
    "audit-update": "an audit of an update",
    "audit": "an audit",
    "evaluate": "an evaluation",
    "plan": "a plan",
}


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
        key=tuple(key_numbers(story)),
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
    words = [f"report of {_KINDS.get(kind, kind)}" for kind in kinds]
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
    """The newest audit's; a run without one is told so in plain words. Without a run, what the first report says."""
    audited = story.of(AuditReport)
    if audited:
        given, newest = max(audited, key=lambda one: one[1].n_rounds)
        return newest.verdict if len(audited) == 1 else f"{given.name}: {newest.verdict}"
    if story.rounds:
        return "Not audited: nothing on this page says how much of the owner's model clients can recover."
    told = [(one.name, words) for one in story.reports if (words := getattr(one.header.spec, "verdict", None))]
    if not told:
        return ""
    name, words = told[0]
    return str(words) if len(told) == 1 else f"{name}: {words}"
