"""Models that `evaluate` trains itself, in memory, to have something to compare with: what one client gets alone.

alone        from the base on, with the federation's recipe, as many steps as one client made over the rounds so far
fine-tuned   from the newest proxy on, for one round of the recipe: what the client has next, had it sent nothing

Nobody holds these clients together: without FedProx's term, SCAFFOLD's correction, noise and rounding of updates.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from fedlpp_cli.errors import FedlppError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.steps.contenders import Contender, Line
from fedlpp_cli.steps.inputs import federation_of
from fedlpp_cli.steps.master_models import MasterModels
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.batching import batch_maker
from fedlpp_cli.training.gradients import MeanGradient
from fedlpp_cli.training.limits import check_fits
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.schedule import n_steps

Shards = Mapping[str, Sequence[Example]]


def check_trainable(line: Line, recipe: TrainSpec | None, *, flag: str) -> tuple[MasterModels, TrainSpec]:
    """The models to compare with, and the recipe; refused before any data is read.

    Args:
        line: with its contenders up.
        recipe: as it was given, or found in a package.
        flag: the option that asks for a training.

    Raises:
        UsageError: no master, no recipe, or no round that was played.
    """
    if line.subject is None:
        raise UsageError(f"{flag} needs a master, or a run folder: it says where training starts, and in which round")
    if recipe is None:
        raise UsageError(
            f"{flag}: the recipe is not known",
            hint="-f federation.toml with [train], or the round's package among what is scored",
        )
    if flag == "--alone" and line.subject.file.header.round == 0:
        raise UsageError("--alone: this is the first master; a client has made no steps so far")
    return line.subject, replace(recipe, proximal_mu=0.0, control_variates=False)


def alone(subject: MasterModels, recipe: TrainSpec, shards: Shards) -> list[Contender]:
    """One contender for each client, trained on its examples from the adapter that changes nothing."""
    n_rounds, federation = subject.file.header.round, federation_of(subject.file)
    found = []
    for client, examples in shards.items():
        a_round = n_steps(recipe, len(examples))
        steps = n_rounds * a_round
        found.append(
            Contender(
                name=f"{client} alone",
                role="alone",
                detail=f"{steps} steps on {len(examples)} rows: {n_rounds} round{'s' * (n_rounds > 1)} of {a_round}",
                master=subject.file.sha256,
                base=subject.seen,
                task=subject.model.task,
                lora=subject.model.lora,
                values=subject.first,
                train=partial(_train, f"{client} alone", examples, replace(recipe, steps=steps, epochs=None), (
                    federation, 0, client,
                )),
            )
        )  # fmt: skip
    return found


def fine_tuned(
    subject: MasterModels, recipe: TrainSpec, shards: Shards, contenders: Sequence[Contender]
) -> list[Contender]:
    """One contender for each client, trained on its examples from the newest proxy on, a row or not."""
    number, federation, master = subject.file.header.round, federation_of(subject.file), subject.file.sha256
    proxies = [row for row in contenders if row.role == "proxy" and row.master == master]
    found = []
    for client, examples in shards.items():
        steps = n_steps(recipe, len(examples))
        proxy = next((row for row in proxies if row.client in (None, client)), None)  # masks: not somebody else's
        found.append(
            Contender(
                name=f"{client} fine-tuned",
                role="fine-tuned",
                round=number,
                detail=f"round {number}, {steps} steps on {len(examples)} rows",
                sha256=master if proxy is None else proxy.sha256,
                master=master,
                base=subject.seen if proxy is None else proxy.base,
                task=subject.model.task,
                lora=subject.model.lora if proxy is None else proxy.lora,
                values=partial(subject.proxy, client) if proxy is None else proxy.values,
                train=partial(_train, f"{client} fine-tuned", examples, recipe, (federation, number, client)),
            )
        )
    return found


def _train(
    name: str,
    examples: Sequence[Example],
    recipe: TrainSpec,
    labels: tuple[object, ...],
    adapted: AdaptedModel,
    task: Task,
    on_progress: Progress,
) -> None:
    """As `client-train` would, from the values that are set; random streams have the names that they have there.

    Raises:
        GateError: a training that went wrong.
        ModelError: a base model that cannot take the examples.
    """
    try:
        check_fits(adapted.model, task.spec.max_length, examples)
        gradient = MeanGradient(adapted, task, recipe, make_batches=batch_maker("auto", adapted, task))
        train(
            adapted, task, examples, recipe, labels=labels, gradient=gradient,
            on_step=lambda done: on_progress(f"training {name}, loss {done.loss:.4f}", done.step, done.total),
        )  # fmt: skip
    except FedlppError as problem:
        raise type(problem)(f"{name}: {problem}", hint=problem.hint) from problem
