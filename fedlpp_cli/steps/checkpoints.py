"""A client's checkpoint: how far its training is, in a file that the same command goes on from.

It is written now and then, and replaced as a whole, so that a kill loses what was trained since the last one. When it
is written is a matter of the clock; what is in it is not. Once the update has its name it is removed.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from msgspec.structs import asdict, replace
from torch import Tensor

from fedlpp_cli.artifact.safetensors_file import TORCH_NAMES
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.artifact.whole import fsync_folder, sweep
from fedlpp_cli.errors import (
    ArtifactError,
    FedlppError,
    InterruptedRunError,
    LineageError,
    OutputError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.checkpoints import CheckpointSpec, TrainingIdentity
from fedlpp_cli.records.headers import CheckpointHeader
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.refs import HubRef, parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.interrupts import noted_interrupts
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.tasks.task import Example, digest_of
from fedlpp_cli.training.held import Held
from fedlpp_cli.training.loop import OnStep, StepDone, TrainedRun, Training
from fedlpp_cli.training.resuming import held_by, put_back

_DTYPES: Final = {f"torch.{name}": dtype for dtype, name in TORCH_NAMES.items()}
_WAY_OUT: Final = "--force-restart trains from the first step; so does removing the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointing:
    """Where a training's checkpoint goes: a path of the client's. And when: always at the end and at a first Ctrl-C.

    In between after every `n_steps` steps, or where that is None when `seconds` have passed. With `restart` what is
    there is not gone on from, but replaced.
    """

    path: RefLike
    n_steps: int | None = None
    seconds: float = 60.0
    restart: bool = False


def identity_of(
    client: str, train: TrainSpec, examples: Sequence[Example], *, device: str, **setup: str
) -> TrainingIdentity:
    """What a checkpoint must agree with, beside the package.

    Args:
        client: who trains.
        train: the recipe, as it is followed here.
        examples: what it is followed on.
        device: "cpu", "cuda" or "cuda:1"; which GPU does not matter.
        setup: what else the numbers depend on.
    """
    setup = {"torch": str(torch.__version__), "device": device.partition(":")[0], **setup}
    return TrainingIdentity(client=client, data=digest_of(examples), train=train, setup=setup)


class Checkpoints:
    """The checkpoint of one training. `resumed_from`: the step that it goes on from, None where there is none."""

    def __init__(self, settings: Checkpointing, others: Mapping[str, object], on_progress: Progress) -> None:
        """Read nothing yet.

        Args:
            settings: where it goes, and when.
            others: by option, what else the command reads or writes.
            on_progress: told of a Ctrl-C.

        Raises:
            SecrecyError: a place on the Hub.
            UsageError: the place of something else, or of a folder.
        """
        self._settings, self._tell = settings, on_progress
        self._path = _own_path(settings.path, others)
        self._written_s = time.monotonic()
        self.resumed_from: int | None = None

    def open(self, package: OpenPackage, training: TrainingIdentity) -> None:
        """Say which training it is, and look at what is there.

        Raises:
            InputError, ArtifactError: it cannot be read.
            LineageError: it is of another training.
        """
        manifest = package.folder.header
        self._header = CheckpointHeader(
            federation=manifest.federation,
            round=manifest.round,
            method=manifest.method,
            parents={"package": (package.folder.sha256,), "proxy": (package.proxy.sha256,)},
            spec=CheckpointSpec(training=training, n_steps=1, n_tokens=0, loss_first=0.0, loss_last=0.0, values={}),
        )
        if not self._settings.restart and os.path.lexists(self._path):
            with self._opened() as file:
                self.resumed_from = file.header.spec.n_steps

    def tensor(self, name: str) -> Tensor | None:
        """One of what is there; None where there is no checkpoint.

        Raises:
            InputError, ArtifactError: it cannot be read, or has no such tensor.
            LineageError: it is of another training.
        """
        if self.resumed_from is None:
            return None
        with self._opened() as file:
            if name not in file.tensors:
                raise ArtifactError(f"{self._path}: tensor {name!r} is missing")
            return file.read(name).clone()

    @contextlib.contextmanager
    def watch(self, training: Training) -> Iterator[OnStep]:
        """As a `Watch`: put the training to where the checkpoint is, and keep it from there on.

        Raises:
            InputError, ArtifactError, LineageError: what is there cannot be gone on from.
        """
        if self.resumed_from is not None:
            self._put_back(training)
        self._written_s = time.monotonic()
        with noted_interrupts(lambda: self._tell("stopping after this step", 0, 0)) as asked:

            def on_step(done: StepDone) -> None:
                if asked.is_set() or done.step == done.total or self._is_due(done.step):
                    self._save(training)
                if asked.is_set():
                    raise InterruptedRunError(
                        f"interrupted after step {done.step} of {done.total}; {self._path} holds it",
                        hint="the same command goes on from there"
                        + ", without --force-restart" * self._settings.restart,
                    )

            yield on_step

    def remove(self) -> None:
        """Once the update has its name, nobody needs it, and it tells as much as the update.

        Raises:
            OutputError: it stays.
        """
        try:
            sweep(self._path)
            self._path.unlink(missing_ok=True)
            fsync_folder(self._path.parent)
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be removed ({error.strerror}); the update is in its place"
            ) from None

    def _is_due(self, step: int) -> bool:
        if self._settings.n_steps is not None:
            return step % self._settings.n_steps == 0
        return time.monotonic() - self._written_s >= self._settings.seconds

    def _save(self, training: Training) -> None:
        held, done = held_by(training), training.done
        spec = replace(
            self._header.spec,
            n_steps=done.n_steps,
            n_tokens=done.n_tokens,
            loss_first=done.loss_first,
            loss_last=done.loss_last,
            values=dict(held.values),
            scores=dict(done.scores),
        )
        layout = {name: (_DTYPES[str(tensor.dtype)], tuple(tensor.shape)) for name, tensor in held.tensors.items()}
        with write_tensors(self._path, replace(self._header, spec=spec), layout, private=True, force=True) as writer:
            for name, tensor in held.tensors.items():
                writer.write(name, tensor)
        self._written_s = time.monotonic()

    def _put_back(self, training: Training) -> None:
        with self._opened() as file:
            spec, source = file.header.spec, str(self._path)
            if spec.n_steps > training.total:
                raise ArtifactError(f"{source}: of step {spec.n_steps}, this training has {training.total}")
            held = Held({name: file.read(name) for name in file.tensors}, spec.values)
            done = TrainedRun(spec.n_steps, spec.n_tokens, spec.loss_first, spec.loss_last, spec.scores)
            put_back(training, held, done, source=source)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[TensorFile[CheckpointHeader]]:
        """The file, known to be of this training; whatever is wrong with it, the way out is the same."""
        try:
            with TensorFile(self._path, CheckpointHeader) as file:
                _check_same(file.header, self._header, source=str(self._path))
                yield file
        except FedlppError as error:
            error.hint = error.hint or _WAY_OUT
            raise


def _own_path(ref: RefLike, others: Mapping[str, object]) -> Path:
    path = parse_ref(ref)
    if isinstance(path, HubRef):
        raise SecrecyError(f"{path}: a checkpoint holds what a client has not sent; it is not written to the Hub")
    for option, other in others.items():
        if isinstance(other, str | Path) and "://" not in str(other) and Path(other).resolve() == path.resolve():
            raise UsageError(f"{option} and --checkpoint are both {path}")
    if path.is_dir():
        raise UsageError(f"--checkpoint {path}: a folder, a file is needed")
    return path


def _check_same(found: CheckpointHeader, wanted: CheckpointHeader, *, source: str) -> None:
    """Refuse a checkpoint of another training, and say what differs."""
    theirs, ours = _facts(found), _facts(wanted)
    for name in (*ours, *theirs):
        if theirs.get(name) != ours.get(name):
            raise LineageError(
                f"{source}: a checkpoint of another training: "
                f"{name} is {_spell(theirs.get(name))}, here it is {_spell(ours.get(name))}"
            )


def _facts(header: CheckpointHeader) -> dict[str, object]:
    """All that has to be the same, the most telling first."""
    training = header.spec.training
    return {
        "package": header.parent("package"),
        "client": training.client,
        "data": training.data,
        **asdict(training.train),
        **training.setup,
        "producer": header.producer,
    }


def _spell(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return "not set" if value is None else str(value)
