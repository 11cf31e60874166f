"""`client-train`: a package and private data become an update."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.errors import LineageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import TrainMetrics, TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.steps.packages import OpenPackage, open_package
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task
from fedlpp_cli.training.gates import check_update
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.schedule import n_steps

_CONFIDENTIAL: Final = "an update gives away what it was trained on"


class TrainResult(Record, frozen=True, kw_only=True):
    """What `client-train` made; with `dry_run` what it would do, and `sha256` and `metrics` are None."""

    path: str
    sha256: str | None
    federation: str
    round: int
    client: str
    train: TrainSpec
    n_examples: int
    n_cut: int
    n_steps: int
    n_parameters: int
    n_bytes: int
    metrics: TrainMetrics | None


def client_train(
    package: RefLike,
    *,
    client: str,
    data: RefLike,
    out: RefLike,
    base: RefLike | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> TrainResult:
    """Train the package's adapter on this client's data; write the difference and nothing else.

    Args:
        package: folder or Hub address of what the owner sent.
        client: the name by which the owner knows this client.
        data: file, saved folder or Hub data set with this client's rows.
        out: where the update goes.
        base: where a public base lies; without it the package's Hub address is used.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu" or "cuda".
        force: replace an existing update.
        dry_run: read and check everything, say what would be done, train nothing.
        on_progress: told what is going on.

    Raises:
        ArtifactError, DigestError, LineageError: a package that is not sound, or is for another client.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        GateError: a training that went wrong; nothing is written.
        SecrecyError: an update for a public repository.
    """
    title = f"Update of {client}"
    with (
        store.destination(parse_ref(out), message=title, force=force, confidential=_CONFIDENTIAL) as place,
        ExitStack() as files,
    ):
        opened = open_package(package)
        files.callback(opened.proxy.close)
        _check_addressee(opened, client)
        on_progress("checking base model", 0, 0)
        folder = opened.base_folder(base)
        task = task_for(opened.proxy.header.spec.model.task, open_tokenizer(folder), columns or {})
        rows = load_data(parse_ref(data), task, columns=columns or {}, split=split, on_progress=on_progress)
        if dry_run:
            return _result(opened, client, rows, path=str(out))
        update, metrics = _train(opened, folder, task, rows, client, choose_device(device), on_progress)
        _write_update(place.path, opened, client, metrics, update, force=force)
        sha256 = sha256_of_file(place.path)
    return _result(opened, client, rows, path=str(place.written), sha256=sha256, metrics=metrics)


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
) -> tuple[dict[str, Tensor], TrainMetrics]:
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
    update = {name: value - proxy[name] for name, value in adapted.values().items()}
    metrics = TrainMetrics(
        n_examples=len(rows.examples),
        n_steps=run.n_steps,
        n_tokens=run.n_tokens,
        loss_first=six_digits(run.loss_first),
        loss_last=six_digits(run.loss_last),
        update_norm=six_digits(check_update(update, spec.max_update_norm)),
    )
    return update, metrics


def _write_update(
    path: Path,
    opened: OpenPackage,
    client: str,
    metrics: TrainMetrics,
    update: Mapping[str, Tensor],
    *,
    force: bool,
) -> None:
    header = UpdateHeader(
        federation=opened.folder.header.federation,
        round=opened.folder.header.round,
        parents={"package": (opened.folder.sha256,), "proxy": (opened.proxy.sha256,)},
        spec=UpdateSpec(client=client, metrics=metrics),
    )
    layout = {name: ("F32", tuple(value.shape)) for name, value in update.items()}
    with write_tensors(path, header, layout, force=force) as writer:
        for name, value in update.items():
            writer.write(name, value)


def _result(
    opened: OpenPackage,
    client: str,
    rows: Data,
    *,
    path: str,
    sha256: str | None = None,
    metrics: TrainMetrics | None = None,
) -> TrainResult:
    shapes = opened.proxy.header.spec.shapes.values()
    n_parameters = sum(math.prod(shape) for shape in shapes)
    spec = opened.folder.header.spec.train
    return TrainResult(
        path=path,
        sha256=sha256,
        federation=opened.folder.header.federation or "",
        round=opened.folder.header.round,
        client=client,
        train=spec,
        n_examples=len(rows.examples),
        n_cut=rows.n_cut,
        n_steps=n_steps(spec, len(rows.examples)),
        n_parameters=n_parameters,
        n_bytes=4 * n_parameters,
        metrics=metrics,
    )
