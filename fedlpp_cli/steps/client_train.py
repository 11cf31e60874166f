"""`client-train`: a package and private data become an update, and what rounding took from it the client's state."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import proxy_layout, read_component
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import layout_bytes, write_tensors
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import QuantSpec, TrainMetrics, TrainSpec
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.client_state import read_residual, write_state
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.steps.packages import OpenPackage, open_package
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task
from fedlpp_cli.training.error_feedback import RoundedUpdate, round_update
from fedlpp_cli.training.gates import check_update
from fedlpp_cli.training.loop import TrainedRun, train
from fedlpp_cli.training.schedule import n_steps

_CONFIDENTIAL: Final = "an update gives away what it was trained on"


class TrainResult(Record, frozen=True, kw_only=True):
    """What `client-train` made; with `dry_run` what it would do, and `sha256` and `metrics` are None.

    `bits_per_parameter` and `n_bytes` count what is sent, codes and scales. `state`: where the new state lies.
    """

    path: str
    sha256: str | None
    federation: str
    round: int
    client: str
    train: TrainSpec
    quantize: QuantSpec
    n_examples: int
    n_cut: int
    n_steps: int
    n_parameters: int
    n_bytes: int
    bits_per_parameter: float
    metrics: TrainMetrics | None
    state: str | None


def client_train(
    package: RefLike,
    *,
    client: str,
    data: RefLike,
    out: RefLike,
    base: RefLike | None = None,
    state: RefLike | None = None,
    state_out: RefLike | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> TrainResult:
    """Train the package's adapter on this client's data; write the difference, rounded as the package asks.

    With `state` what rounding took from earlier updates is added before it is rounded, with `state_out` what rounding
    takes from this one is kept (`training/error_feedback.py`). Whoever has the update has its state too: the state
    gets its name first, and a state without its update does no harm.

    Args:
        package: folder or Hub address of what the owner sent.
        client: the name by which the owner knows this client.
        data: file, saved folder or Hub data set with this client's rows.
        out: where the update goes.
        base: where a public base lies; without it the package's Hub address is used.
        state: the state that this client's last round left.
        state_out: where the new state goes: a path of the client's.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu" or "cuda".
        force: replace an existing update, and an existing state.
        dry_run: read and check everything, say what would be done, train nothing.
        on_progress: told what is going on.

    Raises:
        ArtifactError, DigestError, LineageError: a package that is not sound, or is for another client; a state that
            does not belong to it.
        UsageError: update and state in one place.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        GateError: a training that went wrong; nothing is written.
        SecrecyError: an update for a public repository, a state for the Hub.
    """
    title = f"Update of {client}"
    with (
        store.destination(parse_ref(out), message=title, force=force, confidential=_CONFIDENTIAL) as place,
        ExitStack() as files,
    ):
        state_path = None if state_out is None else _state_path(files, parse_ref(state_out), place.path, force=force)
        opened = open_package(package)
        files.callback(opened.proxy.close)
        manifest, shapes = opened.folder.header, opened.proxy.header.spec.shapes
        _check_addressee(opened, client)
        residual = None if state is None else read_residual(state, manifest, shapes, client=client)
        on_progress("checking base model", 0, 0)
        folder = opened.base_folder(base)
        task = task_for(opened.proxy.header.spec.model.task, open_tokenizer(folder), columns or {})
        rows = load_data(parse_ref(data), task, columns=columns or {}, split=split, on_progress=on_progress)
        if dry_run:
            return _result(opened, client, rows, path=str(out), state=state_path)
        delta, run = _train(opened, folder, task, rows, client, choose_device(device), on_progress)
        update = round_update(delta, manifest.spec.update, residual)
        metrics = _metrics(rows, run, check_update(update.values, manifest.spec.train.max_update_norm))
        sha256 = _write(place.path, state_path, _header(opened, client, metrics), update, shapes, force=force)
    return _result(opened, client, rows, path=str(place.written), sha256=sha256, metrics=metrics, state=state_path)


def _state_path(files: ExitStack, ref: Ref, update: Path, *, force: bool) -> Path:
    """Where the new state goes; what would be refused after the training is refused before it."""
    path = files.enter_context(store.destination(ref, message="", secret=True, force=force)).path
    if path.resolve() == update.resolve():
        raise UsageError(f"--out and --state-out are both {update}")
    return path


def _check_addressee(opened: OpenPackage, client: str) -> None:
    addressee = opened.folder.header.spec.client
    if addressee not in (None, client):
        raise LineageError(f"{opened.name} is for client {addressee!r}, not for {client!r}")


def _train(
    opened: OpenPackage,
    folder: Path,
    task: Task,
    rows: Data,
    client: str,
    device: str,
    on_progress: Progress,
) -> tuple[dict[str, Tensor], TrainedRun]:
    """Trained adapter minus proxy, and how it went."""
    spec, model = opened.folder.header.spec.train, opened.proxy.header.spec.model
    on_progress("opening base model", 0, 0)
    base = open_model(folder, model.task, compute=spec.compute, device=device).model
    adapted = AdaptedModel(base, model.lora, compute=spec.compute)
    proxy = {name: read_component(opened.proxy, name) for name in opened.proxy.header.spec.shapes}
    adapted.load(proxy)
    run = train(
        adapted,
        task,
        rows.examples,
        spec,
        labels=(opened.folder.header.federation, opened.folder.header.round, client),
        on_step=lambda step, total, loss: on_progress(f"training, loss {loss:.4f}", step, total),
    )
    return {name: value - proxy[name] for name, value in adapted.values().items()}, run


def _metrics(rows: Data, run: TrainedRun, norm: float) -> TrainMetrics:
    """What the owner is told; `norm` is that of what is sent."""
    return TrainMetrics(
        n_examples=len(rows.examples),
        n_steps=run.n_steps,
        n_tokens=run.n_tokens,
        loss_first=six_digits(run.loss_first),
        loss_last=six_digits(run.loss_last),
        update_norm=six_digits(norm),
    )


def _header(opened: OpenPackage, client: str, metrics: TrainMetrics) -> UpdateHeader:
    manifest = opened.folder.header
    return UpdateHeader(
        federation=manifest.federation,
        round=manifest.round,
        parents={"package": (opened.folder.sha256,), "proxy": (opened.proxy.sha256,)},
        spec=UpdateSpec(client=client, metrics=metrics, quantize=manifest.spec.update),
    )


def _write(
    path: Path,
    state_path: Path | None,
    header: UpdateHeader,
    update: RoundedUpdate,
    shapes: Mapping[str, Shape],
    *,
    force: bool,
) -> str:
    """Update and state; the update's sha256. The state is whole and has its name before the update gets its own.

    The other way round a kill in between would leave an update that can be sent, and in the next round the residual
    that it already holds would be added once more. As it is, no update is there, and training again gives both.
    """
    with write_tensors(path, header, proxy_layout(shapes, header.spec.quantize), force=force) as writer:
        for name, tensor in update.parts.items():
            writer.write(name, tensor)
        sha256 = writer.sha256()
        if state_path is not None:
            write_state(state_path, header, sha256, update.residual, force=force)
    return sha256


def _result(
    opened: OpenPackage,
    client: str,
    rows: Data,
    *,
    path: str,
    sha256: str | None = None,
    metrics: TrainMetrics | None = None,
    state: Path | None = None,
) -> TrainResult:
    shapes, manifest = opened.proxy.header.spec.shapes, opened.folder.header
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    n_bytes = layout_bytes(proxy_layout(shapes, manifest.spec.update))
    return TrainResult(
        path=path,
        sha256=sha256,
        federation=manifest.federation or "",
        round=manifest.round,
        client=client,
        train=manifest.spec.train,
        quantize=manifest.spec.update,
        n_examples=len(rows.examples),
        n_cut=rows.n_cut,
        n_steps=n_steps(manifest.spec.train, len(rows.examples)),
        n_parameters=n_parameters,
        n_bytes=n_bytes,
        bits_per_parameter=round(8 * n_bytes / n_parameters, 4),
        metrics=metrics,
        state=None if state is None else str(state),
    )
