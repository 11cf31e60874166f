"""The only place that prints. Data goes to stdout, talk to stderr.

stdout: a summary for people whose last line is what was written, or with `--quiet` only that line, or with `--json`
one envelope. stderr: progress on a terminal, nothing off it; errors; hints.
"""

import contextlib
import getpass
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from fedlpp_cli.cli.printable import printable
from fedlpp_cli.errors import FedlppError, LeakageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.record import Record

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from fedlpp_cli.training.loop import OnStep, StepDone, Training

ENVELOPE: Final = 1

_screen: ContextVar["Screen"] = ContextVar("screen")


@dataclass(slots=True)
class Screen:
    """How one command talks. Of several processes that do one thing together only the first, 0, tells how it went."""

    command: str
    as_json: bool = False
    quiet: bool = False
    process: int = 0
    progress: Progress = field(default=silent)

    def show(self, result: Record) -> None:
        """Tell what a command found or made."""
        if self.process:
            return
        if self.as_json:
            print(envelope(self.command, result))
            return
        from fedlpp_cli.cli.tables import render

        render(self.command, result, quiet=self.quiet)

    def show_error(self, error: FedlppError) -> None:
        """Tell what went wrong, in one line and one more for the way out; what was found all the same comes first."""
        if self.as_json and not self.process:
            print(error_envelope(self.command, error))
        elif isinstance(error, LeakageError) and isinstance(error.result, Record):
            self.show(error.result)
        which = f"process {self.process}: " if self.process else ""
        print(f"{which}error: {printable(str(error), keep_lines=True)}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {printable(error.hint)}", file=sys.stderr)


@contextlib.contextmanager
def on_screen(screen: Screen) -> Iterator[None]:
    """Send progress to this screen in the body, as bars if anybody can see them."""
    token = _screen.set(screen)
    try:
        if screen.as_json or screen.quiet or screen.process or not sys.stderr.isatty():
            yield
        else:
            with _bars() as screen.progress:
                yield
    finally:
        _screen.reset(token)


def on_progress(text: str, done: int, total: int) -> None:
    """Progress of the command that is running."""
    _screen.get().progress(text, done, total)


def ask_secret(question: str, *, hint: str) -> str:
    """What a person types at the terminal, which shows nothing of it.

    Raises:
        UsageError: there is no terminal, or nothing was typed. The hint says how to do without.
    """
    if not sys.stdin.isatty():
        raise UsageError("a passphrase is needed, and there is no terminal to ask for it", hint=hint)
    bar = _screen.get().progress
    quiet = bar.paused() if isinstance(bar, _Bar) else contextlib.nullcontext()
    # Where the terminal cannot be kept from showing it, getpass warns and asks all the same.
    with quiet, warnings.catch_warnings(action="error", category=getpass.GetPassWarning):
        try:
            typed = getpass.getpass(printable(question))
        except (EOFError, getpass.GetPassWarning):
            typed = ""
    if not typed:
        raise UsageError("no passphrase was typed", hint=hint)
    return typed


@contextlib.contextmanager
def show_tokens(training: "Training") -> Iterator["OnStep"]:
    """As a `Watch`: how many tokens a second go by, beside the bar. The clock is here, far from what is computed."""
    n_tokens, start_s = 0, time.monotonic()

    def on_step(done: "StepDone") -> None:
        nonlocal n_tokens
        n_tokens += done.n_tokens
        bar = _screen.get().progress
        if isinstance(bar, _Bar):
            bar.show_rate(f"{n_tokens / max(time.monotonic() - start_s, 1e-6):,.0f} tokens/s")

    yield on_step


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars)


@dataclass(slots=True)
class _Bar:
    bars: "Bars"
    task: "TaskID | None" = None
    stage: str = ""

    def __call__(self, text: str, done: int, total: int) -> None:
        stage = text.partition(",")[0]
        if self.task is None or stage != self.stage:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.task, self.stage = self.bars.add_task(printable(text), total=total or None, rate=""), stage
        self.bars.update(self.task, description=printable(text), completed=done, total=total or None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is drawn in the body, where somebody types."""
        self.bars.stop()
        try:
            yield
        finally:
            self.bars.start()

    def show_rate(self, text: str) -> None:
        """Beside the bar that is shown."""
        if self.task is not None:
            self.bars.update(self.task, rate=text)


def envelope(command: str, result: Record) -> str:
    """The JSON that `--json` prints on success. Its keys are frozen; `data` may get more."""
    data = msgspec.to_builtins(result)
    return json.dumps({"envelope": ENVELOPE, "command": command, "status": "success", "data": data}, sort_keys=True)


def error_envelope(command: str, error: FedlppError) -> str:
    """The JSON that `--json` prints on failure; with `data` where something was found all the same."""
    problem = {"code": error.code, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    told = {"envelope": ENVELOPE, "command": command, "status": "error", "error": problem}
    if isinstance(error, LeakageError):
        told["data"] = msgspec.to_builtins(error.result)
    return json.dumps(told, sort_keys=True)
