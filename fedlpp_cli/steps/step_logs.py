"""A log of a training's steps, for its client's eyes: losses are about private rows.

    PATH.jsonl         one canonical JSON object a line: step, total, loss, gradient_norm, learning_rate, n_tokens
    tensorboard:DIR    loss, gradient_norm and learning_rate, for TensorBoard

A training that goes on from a checkpoint goes on with its log too, from the same step.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fedlpp_cli import canonical
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.errors import InputError, OutputExistsError, UsageError
from fedlpp_cli.training.loop import OnStep, StepDone, Training, Watch

_TENSORBOARD: Final = "tensorboard:"
_SUFFIX: Final = ".jsonl"
_MAX_BYTES: Final = 2**30


def step_log(place: str, *, force: bool = False) -> Watch:
    """What writes the log of a training.

    Args:
        place: a path that ends in .jsonl, or tensorboard:DIR.
        force: replace the log of another training.

    Raises:
        UsageError: neither, or TensorBoard is not installed.
    """
    if place.startswith(_TENSORBOARD) and place != _TENSORBOARD:
        writer = _summary_writer(place)
        return lambda training: _tensorboard(writer, Path(place.removeprefix(_TENSORBOARD)), training)
    if "://" in place or not place.endswith(_SUFFIX):
        raise UsageError(f"--log {place}: a path that ends in {_SUFFIX}, or {_TENSORBOARD}DIR")
    return lambda training: _json_lines(Path(place), training, force=force)


@contextlib.contextmanager
def _json_lines(path: Path, training: Training, *, force: bool) -> Iterator[OnStep]:
    n_done = training.done.n_steps
    kept = _lines_until(n_done, path) if n_done and os.path.lexists(path) else b""
    if not n_done and not force and os.path.lexists(path):
        raise OutputExistsError(f"{path} exists; the log of another training is kept", hint="another --log, or --force")
    with whole_file(path, private=True, force=True) as descriptor, output_errors(path):
        write_all(descriptor, kept, 0)
    with output_errors(path), path.open("ab", buffering=0) as stream:

        def on_step(done: StepDone) -> None:
            with output_errors(path):
                stream.write(canonical.encode(asdict(done)) + b"\n")

        yield on_step


def _lines_until(last: int, path: Path) -> bytes:
    """The log's lines to that step: those after it will come once more, and a last one may have been cut by a kill.

    Raises:
        InputError: something else than a log.
    """
    kept = []
    for number, line in enumerate(read_regular(path, _MAX_BYTES).splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            step = None
        if type(step) is not int:
            raise InputError(f"{path}: line {number} is not that of a log of steps", hint="another --log")
        if step <= last:
            kept.append(line)
    return b"".join(kept)


def _summary_writer(place: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            f"--log {place}: TensorBoard is not installed here", hint="pip install tensorboard, or --log FILE.jsonl"
        ) from None
    return SummaryWriter


@contextlib.contextmanager
def _tensorboard(writer: Any, folder: Path, training: Training) -> Iterator[OnStep]:
    n_done = training.done.n_steps
    with output_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        board = writer(log_dir=str(folder), purge_step=n_done + 1 if n_done else None)

    def on_step(done: StepDone) -> None:
        for name in ("loss", "gradient_norm", "learning_rate"):
            board.add_scalar(name, getattr(done, name), done.step)

    try:
        yield on_step
    finally:
        board.close()
