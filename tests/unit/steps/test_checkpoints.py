"""A client's checkpoint: what it is good for, who it is for, and when it is refused."""

import signal
import stat

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import client_train, inspect, pack, verify
from fedlpp_cli.errors import (
    ArtifactError,
    GateError,
    InterruptedRunError,
    LineageError,
    ModelError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.records.headers import CheckpointHeader, UpdateHeader
from fedlpp_cli.records.specs import LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.steps.checkpoints import Checkpointing
from fedlpp_cli.training.loop import TrainedRun

SPEC = TrainSpec(steps=6, batch_size=4, learning_rate=1e-2)
DROPOUT = LoraSpec(rank=4, dropout=0.2)
SHAPES = {
    "adamw, accumulation, a schedule": {
        "lora": DROPOUT, "train": replace(SPEC, gradient_accumulation=2, warmup=0.4, schedule="linear"),
    },
    "momentum, FedProx": {
        "lora": DROPOUT, "train": replace(SPEC, optimizer="sgd", momentum=0.9, proximal_mu=2.0),
    },
    "rounded updates, error feedback": {
        "lora": DROPOUT, "train": SPEC, "round_updates": QuantSpec(bits="2"), "keep_states": True,
    },
    "a classifier": {
        "train": TrainSpec(epochs=2.0, batch_size=4), "task": TaskSpec(kind="seq-cls", max_length=32, labels=LABELS),
    },
}  # fmt: skip

SETUP = {
    "backend": "dense-fp32", "batching": "auto", "device": "cpu", "micro_batch": "whole",
    "torch": str(torch.__version__),
}  # fmt: skip


class StoppedError(Exception):
    """What stops a training in these tests, as a crash would."""


def stop_at(step):
    def on_progress(text, done, total):
        if text.startswith("training") and done == step:
            raise StoppedError

    return on_progress


def train(federation, folder, *, number=0, stop=None, checkpoint=None, **options):
    """Client a's training of a round. With `stop` it crashes at that step."""
    if stop is not None:
        options["on_progress"] = stop_at(stop)
    settings = Checkpointing(**{"path": folder / "c", "n_steps": 2, **(checkpoint or {})})
    if federation.keep_states:
        options.setdefault("state_out", folder / "s")
        options.setdefault("state", federation.state(number - 1, "a") if number else None)
    arguments = {
        "client": "a", "data": federation.data("a"), "base": federation.base, "device": "cpu", "out": folder / "u",
        "package": federation.package(number), "checkpoint": settings, **options,
    }  # fmt: skip
    return client_train(**arguments)


@pytest.fixture(scope="module")
def long(tmp_path_factory, llama):
    """A federation of six steps, sent and not trained yet. Read only."""
    federation = Federation(tmp_path_factory.mktemp("long"), llama, train=SPEC, lora=DROPOUT)
    federation.init()
    federation.send(0)
    federation.train_client(0, "a")
    return federation


@pytest.fixture
def stopped(long, tmp_path):
    """A folder with the checkpoint of step 4 of client a's training."""
    with pytest.raises(StoppedError):
        train(long, tmp_path, stop=5)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What it is good for


@pytest.mark.parametrize("shape", SHAPES)
def test_a_training_that_crashed_goes_on_and_ends_in_the_same_update(shape, llama, bert, tmp_path):
    is_classifier = shape == "a classifier"
    federation = Federation(tmp_path / "run", bert if is_classifier else llama, **SHAPES[shape])
    if is_classifier:
        write_jsonl(federation.data("a"), label_rows(13, seed=3))
        write_jsonl(federation.data("b"), label_rows(9, seed=4))
    federation.play(1)
    number = int(federation.keep_states)  # with a residual of an earlier round to add
    if number:
        federation.send(1)
        federation.train_client(1, "a")
    work = tmp_path / "work"
    work.mkdir()
    for stop, left in ((3, 2), (5, 4)):
        with pytest.raises(StoppedError):
            train(federation, work, number=number, stop=stop)
        assert names(work) == ["c"]
        assert header_of(work / "c").spec.n_steps == left
    result = train(federation, work, number=number)
    assert result.resumed_from == 4
    assert sha256_of(work / "u") == sha256_of(federation.update(number, "a"))
    if number:
        assert sha256_of(work / "s") == sha256_of(federation.state(number, "a"))
    assert names(work) == (["s", "u"] if number else ["u"])


def test_with_a_checkpoint_or_without_the_update_is_the_same(long, tmp_path):
    result = train(long, tmp_path)
    assert (result.resumed_from, names(tmp_path)) == (None, ["u"])
    assert sha256_of(tmp_path / "u") == sha256_of(long.update(0, "a"))


def test_a_training_that_was_done_is_not_done_again(long, tmp_path, monkeypatch):
    """Between the last step and the update's name nothing is lost either."""

    def broken(*_, **__):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr("fedlpp_cli.steps.client_train.write_update", broken)
        with pytest.raises(StoppedError):
            train(long, tmp_path)
    assert header_of(tmp_path / "c").spec.n_steps == 6
    result = train(long, tmp_path, stop=1)  # would crash if a step were made
    assert result.resumed_from == 6
    assert sha256_of(tmp_path / "u") == sha256_of(long.update(0, "a"))


def test_with_seconds_it_is_written_when_they_have_passed_and_at_the_end(long, tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr("fedlpp_cli.steps.checkpoints.time.monotonic", lambda: now[0])

    def on_progress(text, done, total):
        if text.startswith("training"):
            if (tmp_path / "c").exists():
                written.append((done, header_of(tmp_path / "c").spec.n_steps))
            now[0] += 25.0

    with monkeypatch.context() as patch:
        patch.setattr("fedlpp_cli.steps.checkpoints.Checkpoints.remove", lambda self: None)
        train(long, tmp_path, on_progress=on_progress, checkpoint={"n_steps": None, "seconds": 60.0})
    assert written == [(4, 3), (5, 3), (6, 3)]
    assert header_of(tmp_path / "c").spec.n_steps == 6


def test_a_dry_run_tells_where_it_would_go_on_and_changes_nothing(long, stopped):
    before = (stopped / "c").read_bytes()
    assert train(long, stopped, dry_run=True).resumed_from == 4
    assert (names(stopped), (stopped / "c").read_bytes()) == (["c"], before)


def test_force_restart_trains_from_the_first_step(long, stopped):
    assert train(long, stopped, checkpoint={"restart": True}).resumed_from is None
    assert sha256_of(stopped / "u") == sha256_of(long.update(0, "a"))
    (stopped / "c").write_text("nothing that could be read")
    train(long, stopped, checkpoint={"restart": True}, force=True)
    assert names(stopped) == ["u"]


@pytest.mark.parametrize(("restart", "more"), [(False, ""), (True, ", without --force-restart")])
def test_ctrl_c_lets_the_step_finish_and_tells_how_to_go_on(long, tmp_path, restart, more):
    def on_progress(text, done, total):
        if text.startswith("training") and done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="interrupted after step 3 of 6") as caught:
        train(long, tmp_path, on_progress=on_progress, checkpoint={"restart": restart})
    assert caught.value.hint == "the same command goes on from there" + more
    assert train(long, tmp_path).resumed_from == 3
    assert sha256_of(tmp_path / "u") == sha256_of(long.update(0, "a"))


# Who it is for, and what is in it


def test_it_is_for_its_client_alone_and_is_an_artifact_as_any(long, stopped):
    path = stopped / "c"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header = header_of(path)
    assert isinstance(header, CheckpointHeader)
    assert header.parents["proxy"] == (sha256_of(long.proxy(0)),)
    assert (header.spec.n_steps, header.spec.training.client) == (4, "a")
    assert header.spec.training.setup == SETUP
    kinds = {name.partition(".")[0] for name in read_all(path)}
    assert kinds == {"adapter", "optimizer", "generator"}
    found = inspect(path)
    assert (found.kind, found.n_parameters) == ("checkpoint", inspect(long.update(0, "a")).n_parameters)
    assert verify([path, long.package(0)]).artifacts[0].parents_found == 2


def test_equal_trainings_write_equal_checkpoints(long, stopped, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(StoppedError):
        train(long, other, stop=5)
    assert (other / "c").read_bytes() == (stopped / "c").read_bytes()


def test_it_never_goes_to_the_hub_nor_into_anothers_place(long, tmp_path):
    (tmp_path / "folder").mkdir()
    others = {"out": tmp_path / "u", "state_out": tmp_path / "s", "state": tmp_path / "old", "data": tmp_path / "d"}
    with pytest.raises(SecrecyError, match="not written to the Hub"):
        train(long, tmp_path, checkpoint={"path": "hf://org/repo/c"})
    for option, place in others.items():
        spelled = f"--{option.replace('_', '-')} and --checkpoint are both"
        with pytest.raises(UsageError, match=spelled):
            train(long, tmp_path, checkpoint={"path": tmp_path / "folder" / ".." / place.name}, **{option: place})
    with pytest.raises(UsageError, match="a folder, a file is needed"):
        train(long, tmp_path, checkpoint={"path": tmp_path / "folder"})
    assert names(tmp_path) == ["folder"]


# When it is refused


def other_package(long, folder):
    pack(long.proxy(0), out=folder / "p", train=replace(SPEC, steps=7), ledger=folder / "ledger")
    return {"package": folder / "p"}


def other_rows(long, folder):
    return {"data": write_jsonl(folder / "rows.jsonl", prompt_rows(12, seed=99))}


def same_rows_in_another_order(long, folder):
    lines = long.data("a").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join([*lines[1:], lines[0]]))
    return {"data": folder / "rows.jsonl"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_package, "package is [0-9a-f]{12}…, here it is [0-9a-f]{12}…"),
        (lambda *_: {"client": "b"}, "client is a, here it is b"),
        (other_rows, "data is [0-9a-f]{12}…, here"),
        (same_rows_in_another_order, "data is [0-9a-f]{12}…, here"),
    ],
)
def test_that_of_another_training_is_refused_with_what_differs_and_the_way_out(long, stopped, change, message):
    options = change(long, stopped)
    before = (stopped / "c").read_bytes()
    with pytest.raises(LineageError, match=f"a checkpoint of another training: {message}") as caught:
        train(long, stopped, **options)
    assert caught.value.hint == "--force-restart trains from the first step; so does removing the file"
    assert (stopped / "c").read_bytes() == before
    assert not (stopped / "u").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": replace(SPEC, compute="bf16")}, "compute is bf16, here it is fp32"),
        ({"setup": {**SETUP, "device": "cuda"}}, "device is cuda, here it is cpu"),
        ({"setup": {**SETUP, "torch": "2.10.0"}}, "torch is 2.10.0, here it is "),
        ({"setup": {**SETUP, "batching": "padded"}}, "batching is padded, here it is auto"),
        ({"setup": {**SETUP, "noise": "1"}}, "noise is 1, here it is not set"),
        ({"setup": {name: value for name, value in SETUP.items() if name != "torch"}}, "torch is not set, here it is "),
    ],
)
def test_that_of_another_machine_or_recipe_is_refused(long, stopped, fields, message):
    spec = header_of(stopped / "c").spec
    spec = replace(spec, training=replace(spec.training, **fields))
    reforge(stopped / "c", stopped / "forged", kind=CheckpointHeader, spec=spec)
    (stopped / "forged").rename(stopped / "c")
    with pytest.raises(LineageError, match=message):
        train(long, stopped)


def test_that_of_another_version_of_ours_is_refused(long, stopped):
    reforge(stopped / "c", stopped / "forged", kind=CheckpointHeader, producer="fedlpp 9.9.9")
    (stopped / "forged").rename(stopped / "c")
    with pytest.raises(LineageError, match=r"producer is fedlpp 9\.9\.9, here it is fedlpp "):
        train(long, stopped)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def not_one(path):
    path.write_text("my notes")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, not_one, empty])
def test_one_that_cannot_be_read_is_refused_and_left_alone(long, stopped, damage):
    damage(stopped / "c")
    before = (stopped / "c").read_bytes()
    with pytest.raises(ArtifactError) as caught:
        train(long, stopped)
    assert "--force-restart" in caught.value.hint
    assert ((stopped / "c").read_bytes(), names(stopped)) == (before, ["c"])


def test_another_artifact_in_its_place_is_refused(long, stopped):
    (stopped / "c").write_bytes(long.update(0, "a").read_bytes())
    with pytest.raises(LineageError, match="is an update, not a checkpoint"):
        train(long, stopped)


@pytest.mark.parametrize("n_steps", [7, 2**53])
def test_one_of_more_steps_than_there_are_is_refused(long, stopped, n_steps):
    spec = replace(header_of(stopped / "c").spec, n_steps=n_steps)
    reforge(stopped / "c", stopped / "forged", kind=CheckpointHeader, spec=spec)
    (stopped / "forged").rename(stopped / "c")
    with pytest.raises(ArtifactError, match=f"of step {n_steps}, this training has 6"):
        train(long, stopped)


def test_tensors_of_another_training_are_refused(long, stopped):
    reforge(
        stopped / "c", stopped / "forged", kind=CheckpointHeader,
        change=lambda tensors: {name: t for name, t in tensors.items() if not name.startswith("generator")},
    )  # fmt: skip
    (stopped / "forged").rename(stopped / "c")
    with pytest.raises(ArtifactError, match=r"tensor 'cpu' is missing"):
        train(long, stopped)
    assert names(stopped) == ["c"]


# Gates


def sent(folder, llama, **train):
    federation = Federation(folder / "run", llama, train=replace(SPEC, **train))
    federation.init()
    federation.send(0)
    return federation


def test_a_training_that_goes_wrong_keeps_the_last_good_checkpoint_and_writes_no_update(llama, tmp_path):
    federation = sent(tmp_path, llama, optimizer="sgd", learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(GateError, match="nothing was written"):
        train(federation, tmp_path, checkpoint={"n_steps": 1000})
    assert not (tmp_path / "u").exists()


def test_a_first_step_that_does_nothing_is_the_last_one(llama, tmp_path):
    federation = sent(tmp_path, llama, optimizer="sgd", learning_rate=1e-60, weight_decay=0.0)
    seen = []
    with pytest.raises(GateError, match="step 1 changed no weight"):
        train(federation, tmp_path, on_progress=lambda text, *_: seen.append(text))
    assert not any(text.startswith("training") for text in seen)
    assert names(tmp_path) == ["run"]


def test_a_residual_does_not_hide_that_nothing_was_trained(llama, tmp_path, monkeypatch):
    """The round before left something to send, and this round's training ends where it began."""
    federation = Federation(tmp_path / "run", llama, train=SPEC, round_updates=QuantSpec(bits="2"), keep_states=True)
    federation.play(1)
    federation.send(1)
    idle = TrainedRun(n_steps=6, n_tokens=1, loss_first=1.0, loss_last=1.0)
    monkeypatch.setattr("fedlpp_cli.steps.local_training.train", lambda *_, **__: idle)
    with pytest.raises(GateError, match="training changed no weight"):
        train(federation, tmp_path, number=1)
    assert not (tmp_path / "u").exists()


def test_one_example_trains_and_its_client_is_told_what_that_means(long, tmp_path):
    data = write_jsonl(tmp_path / "one.jsonl", prompt_rows(1, seed=1))
    result = train(long, tmp_path, data=data)
    assert result.warnings == ("trained on one example: the update tells what is in it",)
    assert header_of(tmp_path / "u").spec.metrics.n_examples == 1
    assert isinstance(header_of(tmp_path / "u"), UpdateHeader)


def test_a_task_that_is_longer_than_the_model_is_refused(long, tmp_path, monkeypatch):
    monkeypatch.setattr("fedlpp_cli.training.limits.max_positions", lambda _: 31)
    with pytest.raises(ModelError, match="max_length is 32, this llama model has 31 positions"):
        train(long, tmp_path)
    assert names(tmp_path) == []
