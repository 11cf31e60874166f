"""Attacks that train: on rows of one client or of all of them (T2, T3), and on the owner's answers (T7).

They are the costly ones: each is begun only if there is time for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.errors import GateError, ModelError
from fedlpp_cli.leakage.agreement import Answers
from fedlpp_cli.leakage.averaging import Values
from fedlpp_cli.leakage.distill import AnswersGradient
from fedlpp_cli.leakage.fine_tune import attackers_recipe, fine_tune
from fedlpp_cli.leakage.knowledge import Idea, packages, rows_of
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.audits import AttackRow
from fedlpp_cli.steps.audit_attacks import Case, Rows
from fedlpp_cli.steps.audit_judge import Judge, Tried
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.gradients import Gradient

_NO_SHARD: Final = "no --shard: the attacker has no rows to train on"

MakeGradient = Callable[[AdaptedModel], Gradient]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training starts: its name, what it takes in words, the adapter, and whether it was handed out."""

    name: str
    knows: str
    values: Values
    was_sent: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of a client, and what the owner's model says to them."""

    client: str
    examples: Sequence[Example]
    answers: Answers


def starts_of(case: Case, averages: Sequence[tuple[str, int, Tried]]) -> list[Start]:
    """The newest proxy, the best average where there is one, and the base alone: what a client does without anybody."""
    found = [Start("newest proxy", packages(1), case.newest)]
    if averages:
        variant, n_rounds, best = max(averages, key=lambda one: one[2].goodness)
        found.append(Start(f"average of {variant}", packages(n_rounds), best.values))
    return [*found, Start("base alone", "no package", case.start, was_sent=False)]


def fine_tune_one(case: Case, judge: Judge, starts: Sequence[Start]) -> Rows:
    """T2: on the first shard."""
    client, examples = next(iter(case.shards.items()), ("a client", ()))
    for start in starts:
        knows = f"{start.knows}, and {rows_of([client], len(examples))}"
        idea = case.idea("fine-tune", start.name, knows, can_count=start.was_sent)
        yield _trained(case, judge, idea, start.values, examples) if examples else idea.skipped(_NO_SHARD)


def fine_tune_all(case: Case, judge: Judge, start: Start) -> Rows:
    """T3 for all clients together: they have one proxy and all shards."""
    examples = [example for shard in case.shards.values() for example in shard]
    knows = f"{start.knows}, and {rows_of(list(case.shards), len(examples))}" if examples else start.knows
    idea = case.idea("pool", f"all shards, {start.name}", knows)
    if len(case.shards) < 2:
        yield idea.skipped("fewer than two shards: --shard for each client")
        return
    yield _trained(case, judge, idea, start.values, examples)


def distill(case: Case, judge: Judge, starts: Sequence[Start], asked: Asked | None) -> Rows:
    """T7: from what the owner's model says to the rows of a client."""
    for start in starts:
        if asked is None:
            yield case.idea("distill", start.name, "the owner's model to ask").skipped(
                "no --shard: the attacker has no rows to ask about"
            )
            continue
        n = len(asked.examples)
        knows = f"{start.knows}, and the owner's model's probabilities for {rows_of([asked.client], n)}"
        idea = case.idea("distill", start.name, knows)

        def gradient(adapted: AdaptedModel, asked: Asked = asked) -> Gradient:
            spec = attackers_recipe(case.recipe, 1)
            return AnswersGradient(adapted, judge.stage.task, asked.examples, asked.answers, spec)

        yield _trained(case, judge, idea, start.values, asked.examples, gradient)


def _trained(
    case: Case,
    judge: Judge,
    idea: Idea,
    start: Values,
    examples: Sequence[Example],
    gradient: MakeGradient | None = None,
) -> AttackRow:
    """Train, score after each pass, and take the best: an attacker with rows to validate on would do so."""
    stage, n_epochs = judge.stage, case.spec.n_epochs
    refusal = stage.clock.refusal(n_scored=n_epochs * len(stage.rows), n_trained=n_epochs * len(examples))
    if refusal is not None:
        return idea.skipped(refusal)
    name = f"{idea.attack}, {idea.variant}"
    try:
        adapted = stage.at(judge.seen, start)
        with stage.clock.timing("trained", n_epochs * len(examples)):
            passes = fine_tune(
                adapted,
                stage.task,
                examples,
                case.recipe,
                n_epochs=n_epochs,
                labels=(case.history.federation, "audit", idea.attack, idea.variant),
                gradient=gradient(adapted) if gradient else None,
                on_step=lambda done: stage.on_progress(f"{name}: training", done.step, done.total),
            )
        tried = [judge.attempt(values, name) for values in passes]
    except (GateError, ModelError) as error:
        return idea.skipped(f"its training went wrong: {error}")
    best = max(range(len(tried)), key=lambda k: (tried[k].goodness, -k))
    variant = f"{idea.variant}, epoch {best + 1} of {n_epochs}"
    return judge.row(Idea(idea.attack, variant, idea.knows, idea.counts), tried[best])
