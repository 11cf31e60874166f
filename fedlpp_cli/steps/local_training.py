"""One client's part of a round: train, round, write.

Package and model are open already: `client-train` opens them for one client, a simulation for many.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.masks import masked_components, read_rows
from fedlpp_cli.adapters.proxy_tensors import proxy_layout, read_adapter, read_control
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.errors import LineageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.specs import Batching, TrainMetrics
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.client_state import ClientState, write_state
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.steps.private_training import PrivateTraining
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.batching import MakeBatches, batch_maker
from fedlpp_cli.training.control_variates import corrections, own_after
from fedlpp_cli.training.error_feedback import RoundedUpdate, round_visible
from fedlpp_cli.training.gates import check_trained, check_untrained, check_update, loss_warning
from fedlpp_cli.training.gradients import WHOLE, Gradient, MeanGradient
from fedlpp_cli.training.limits import check_fits
from fedlpp_cli.training.loop import TrainedRun, Watch, guessing_loss, train
from fedlpp_cli.training.sampling import Sampler
from fedlpp_cli.training.schedule import learning_rate_sum
from fedlpp_cli.training.shares import Share
from fedlpp_cli.training.visible_rows import only_visible


@dataclass(frozen=True, slots=True)
class LocalRound:
    """What all clients of a round have in common.

    `start`: what the proxy says of each component, float32; `control`: what it says of the owner's control variates,
    None in a proxy without. `visible`: factor B to which of its rows are there, in a proxy with masks. The model is
    trained in place, and is set to `start` for each client. `make_batches`: how examples go through it. `share`: what
    of each batch is done here.
    """

    package: OpenPackage
    task: Task
    adapted: AdaptedModel
    start: Mapping[str, Tensor]
    control: Mapping[str, Tensor] | None
    make_batches: MakeBatches
    share: Share = WHOLE
    visible: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainedUpdate:
    """An update that has passed all gates, and the state that belongs to it; not written yet.

    `warnings`: what its client should know of it.
    """

    header: UpdateHeader
    shapes: Mapping[str, Shape]
    rounded: RoundedUpdate
    state: ClientState
    warnings: tuple[str, ...] = ()


def open_task(package: OpenPackage, folder: Path, columns: Mapping[str, str]) -> Task:
    """The package's task, with the tokenizer in the base model's folder.

    Raises:
        ModelError: the folder has no tokenizer.
    """
    return task_for(package.proxy.header.spec.model.task, open_tokenizer(folder), columns)


def open_round(
    package: OpenPackage, task: Task, adapted: AdaptedModel, *, share: Share = WHOLE, batching: Batching = "auto"
) -> LocalRound:
    """Read the proxy, and find out how examples may go through the model.

    Raises:
        ArtifactError: parts of a component that do not fit together, or drawn values that are not the owner's.
        ModelError: a base model that has not the adapter's layers in these shapes.
        UsageError: a `batching` that this model has no use for.
    """
    adapted.check_shapes(package.proxy.header.spec.shapes)
    start = read_adapter(package.proxy)
    control = {name: value for name in start if (value := read_control(package.proxy, name)) is not None}
    make_batches = batch_maker(batching, adapted, task)
    return LocalRound(package, task, adapted, start, control or None, make_batches, share, _visible(package))


def _visible(package: OpenPackage) -> dict[str, Tensor]:
    found = {name: read_rows(package.proxy, name) for name in masked_components(package.proxy.header.spec.shapes)}
    return {name: torch.from_numpy(rows) for name, rows in found.items() if rows is not None}


def check_addressee(package: OpenPackage, client: str) -> None:
    """Refuse a package that is for another client.

    Raises:
        LineageError: naming both.
    """
    addressee = package.folder.header.spec.client
    if addressee not in (None, client):
        raise LineageError(f"{package.name} is for client {addressee!r}, not for {client!r}")


def train_update(
    opened: LocalRound,
    client: str,
    examples: Sequence[Example],
    state: ClientState | None,
    on_progress: Progress,
    watches: Sequence[Watch] = (),
    private: PrivateTraining | None = None,
) -> TrainedUpdate:
    """Train from the proxy on; the difference, with the residual, rounded as the package asks.

    Args:
        opened: package and model.
        client: who trains.
        examples: its data.
        state: what its last round left; None for nothing.
        on_progress: told of each step.
        watches: go along with the training.
        private: gives each example's gradient its bound and noise; None for a training as it comes.

    Raises:
        ModelError: a base model that has not the adapter's layers in these shapes, or cannot take the examples.
        GateError: a training that went wrong.
    """
    manifest = opened.package.folder.header
    own = state.control if state else None
    check_fits(opened.adapted.model, opened.task.spec.max_length, examples)
    opened.adapted.load(opened.start)
    epsilon = f", epsilon {private.privacy.epsilon:.4g} once it is sent" if private else ""
    with _parts(opened, len(examples), own, private) as (gradient, sampler):
        run = train(
            opened.adapted,
            opened.task,
            examples,
            manifest.spec.train,
            labels=(manifest.federation, manifest.round, client, *(private.labels if private else ())),
            gradient=gradient,
            sampler=sampler,
            factors=opened.package.proxy.header.spec.factors,
            share=opened.share,
            on_step=lambda done: on_progress(f"training, loss {done.loss:.4f}{epsilon}", done.step, done.total),
            watches=(only_visible(opened.visible), *watches),
        )
    delta = {name: value - opened.start[name] for name, value in opened.adapted.values().items()}
    check_trained(delta)
    shapes = update_shapes(opened.package.proxy.header.spec)
    check_untrained(delta, shapes)
    residual = {} if state is None else state.residual
    rounded = round_visible({name: delta[name] for name in shapes}, manifest.spec.update, residual, opened.visible)
    # What rounding took from a factor waits until the factor travels again.
    waiting = {name: residual.get(name, torch.zeros_like(value)) for name, value in delta.items()}
    norm = check_update(rounded.values, manifest.spec.train.max_update_norm)
    metrics = _metrics(len(examples), run, norm, tells_losses=private is None)
    if manifest.spec.train.control_variates:
        own = own_after(own, opened.control, rounded.values, learning_rate_sum(manifest.spec.train, run.n_steps))
    header = _header(opened.package, client, metrics, run.scores)
    if private is not None:
        header = replace(header, spec=replace(header.spec, privacy=private.privacy))
    warnings = _warnings(opened, len(examples), run, private)
    return TrainedUpdate(header, shapes, rounded, ClientState(waiting | rounded.residual, own), warnings)


def foresee_again(trained: TrainedUpdate, private: PrivateTraining) -> TrainedUpdate:
    """With the epsilon of now: its client's other trainings may have been charged since. Raises as `record_charge`."""
    spec = replace(trained.header.spec, privacy=private.foresee())
    return dataclasses.replace(trained, header=replace(trained.header, spec=spec))


def write_update(
    path: Path,
    state_path: Path | None,
    trained: TrainedUpdate,
    *,
    force: bool,
    charge: Callable[[str], None] = lambda sha256: None,
) -> str:
    """Update and state; the update's sha256. The state is whole and has its name before the update gets its own.

    The other way round a kill in between would leave an update that can be sent, and in the next round the residual
    that it already holds would be added once more. As it is, no update is there, and training again gives both.
    `charge` is told the sha256 in front of the update's name; if it raises, no update is there.

    Raises:
        OutputExistsError, OutputError: as `write_tensors`.
    """
    header, rounded = trained.header, trained.rounded
    with write_tensors(path, header, proxy_layout(trained.shapes, header.spec.quantize), force=force) as writer:
        for name, tensor in rounded.parts.items():
            writer.write(name, tensor)
        sha256 = writer.sha256()
        if state_path is not None:
            write_state(state_path, header, sha256, trained.state, force=force)
        charge(sha256)
    return sha256


def _warnings(opened: LocalRound, n_examples: int, run: TrainedRun, private: PrivateTraining | None) -> tuple[str, ...]:
    found = [loss_warning(run.loss_first, run.loss_last, guessing_loss(opened.adapted, opened.task))]
    if n_examples == 1:
        found.append("trained on one example: the update tells what is in it")
    if private is not None and private.privacy.delta * n_examples >= 1:
        found.append(f"delta is {private.privacy.delta:g}: below one in {n_examples} examples it would mean something")
    return tuple(warning for warning in found if warning)


@contextmanager
def _parts(
    opened: LocalRound, n_examples: int, control: Mapping[str, Tensor] | None, private: PrivateTraining | None
) -> Iterator[tuple[Gradient, Sampler | None]]:
    """How a step's gradient is made, and of which examples; None for the usual ones."""
    recipe = opened.package.folder.header.spec.train
    if private is not None:
        with private.parts(
            opened.adapted,
            opened.task,
            recipe,
            n_examples,
            share=opened.share,
            make_batches=opened.make_batches,
        ) as parts:
            yield parts
        return
    gradient = MeanGradient(
        opened.adapted,
        opened.task,
        recipe,
        share=opened.share,
        make_batches=opened.make_batches,
        corrections=corrections(control, opened.control),
    )
    yield gradient, None


def _metrics(n_examples: int, run: TrainedRun, norm: float, *, tells_losses: bool) -> TrainMetrics:
    """What the owner is told; `norm` is that of what is sent. Losses and tokens are made of rows, without noise."""
    return TrainMetrics(
        n_examples=n_examples,
        n_steps=run.n_steps,
        n_tokens=run.n_tokens if tells_losses else 0,
        loss_first=six_digits(run.loss_first) if tells_losses else None,
        loss_last=six_digits(run.loss_last) if tells_losses else None,
        update_norm=six_digits(norm),
    )


def _header(package: OpenPackage, client: str, metrics: TrainMetrics, scores: Mapping[str, float]) -> UpdateHeader:
    manifest = package.folder.header
    return UpdateHeader(
        federation=manifest.federation,
        round=manifest.round,
        method=manifest.method,
        parents={"package": (package.folder.sha256,), "proxy": (package.proxy.sha256,)},
        spec=UpdateSpec(
            client=client,
            metrics=metrics,
            quantize=manifest.spec.update,
            control_variates=manifest.spec.train.control_variates,
            scores=dict(scores),
        ),
    )
