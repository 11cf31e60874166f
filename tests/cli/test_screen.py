"""What a training shows while it runs: something on a terminal, nothing off it."""

import contextlib
import os
import pty
import subprocess
import sys

import pytest
from support.parties import Federation

from fedlpp_cli.records.specs import TrainSpec


@pytest.fixture
def call(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, train=TrainSpec(steps=150, batch_size=4))
    federation.init()
    federation.send(0)
    return [
        sys.executable, "-m", "fedlpp_cli", "client-train", str(federation.package(0)), "--base", str(llama),
        "--client", "a", "--data", str(federation.data("a")), "--device", "cpu", "--out", str(tmp_path / "u"),
    ]  # fmt: skip


def on_a_terminal(call):
    """Everything that comes to a terminal's stderr; stdout is elsewhere."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_shows_loss_steps_and_speed(call):
    shown = on_a_terminal(call)
    assert "training, loss" in shown
    assert "/150" in shown
    assert "tokens/s" in shown


def test_off_a_terminal_there_is_nothing(call):
    result = subprocess.run(call, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "tokens/s" not in result.stdout
