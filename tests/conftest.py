"""Fixtures that many tests share."""

import os
import signal

# A shell that starts tests in the background lets them ignore Ctrl-C, and with them every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny tensors gain nothing from threads, and two test processes would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.parties import Federation
from support.tiny import make_model
from typer.testing import CliRunner


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures that outlive a test release is not noted in the home of the machine's user either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLPP_STATE", str(tmp_path_factory.mktemp("fedlpp-state")))
        yield


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's user reaches a test, nothing of a test stays on the machine."""
    monkeypatch.setenv("FEDLPP_CACHE", str(tmp_path / "fedlpp-cache"))
    monkeypatch.setenv("FEDLPP_STATE", str(tmp_path / "fedlpp-state"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FEDLPP_DEBUG", raising=False)
    monkeypatch.delenv("FEDLPP_POLICY", raising=False)
    monkeypatch.delenv("FEDLPP_PASSPHRASE", raising=False)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama-style language model."""
    return make_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2-style language model: Conv1D layers."""
    return make_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT-style encoder."""
    return make_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa-style encoder."""
    return make_model(tmp_path_factory.mktemp("models") / "roberta", "roberta")


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Federation:
    """A federation of two clients after one round. Read only: tests that write make their own."""
    federation = Federation(tmp_path_factory.mktemp("played"), llama)
    federation.play(1)
    return federation


@pytest.fixture
def runner() -> CliRunner:
    """Runs the real command line in this process."""
    return CliRunner()
