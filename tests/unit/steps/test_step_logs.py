"""What a log of steps holds, and that it goes on where its training goes on."""

import json
import stat

import pytest
from msgspec.structs import replace
from support.forge import sha256_of
from support.parties import Federation

from fedlpp_cli import client_train
from fedlpp_cli.errors import InputError, OutputExistsError, UsageError
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.steps.checkpoints import Checkpointing
from fedlpp_cli.steps.step_logs import step_log

SPEC = TrainSpec(steps=5, batch_size=4, learning_rate=1e-2, schedule="linear")


class StoppedError(Exception):
    """What stops a training in these tests, as a crash would."""


@pytest.fixture(scope="module")
def sent(tmp_path_factory, llama):
    """A federation of five steps, sent and not trained yet. Read only."""
    federation = Federation(tmp_path_factory.mktemp("sent"), llama, train=replace(SPEC))
    federation.init()
    federation.send(0)
    return federation


def train(federation, folder, *, stop=None, force=False):
    def on_progress(text, done, total):
        if text.startswith("training") and done == stop:
            raise StoppedError

    return client_train(
        federation.package(0), client="a", data=federation.data("a"), base=federation.base, device="cpu",
        out=folder / "u", checkpoint=Checkpointing(path=folder / "c", n_steps=2), force=force,
        watches=[step_log(str(folder / "log.jsonl"), force=force)], on_progress=on_progress,
    )  # fmt: skip


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_line_a_step_for_the_clients_eyes(sent, tmp_path):
    result = train(sent, tmp_path)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    assert {frozenset(line) for line in found} == {
        frozenset({"step", "total", "loss", "gradient_norm", "learning_rate", "n_tokens"})
    }
    assert [line["learning_rate"] for line in found] == pytest.approx([1e-2, 8e-3, 6e-3, 4e-3, 2e-3])
    assert sum(line["n_tokens"] for line in found) == result.metrics.n_tokens
    assert round(found[0]["loss"], 4) == round(result.metrics.loss_first, 4)
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600


def test_a_log_does_not_change_the_update(sent, tmp_path):
    train(sent, tmp_path)
    sent.train_client(0, "a")
    assert sha256_of(tmp_path / "u") == sha256_of(sent.update(0, "a"))


def test_it_goes_on_with_its_training_and_no_step_stands_twice(sent, tmp_path):
    (tmp_path / "whole").mkdir()
    train(sent, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(sent, tmp_path, stop=4)
    assert len(lines(tmp_path)) == 3  # the checkpoint is of step 2
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step":4,"lo')  # a kill in the middle of a line
    assert train(sent, tmp_path).resumed_from == 2
    assert (tmp_path / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


def test_it_starts_late_where_there_was_none(sent, tmp_path):
    with pytest.raises(StoppedError):
        train(sent, tmp_path, stop=4)
    (tmp_path / "log.jsonl").unlink()
    train(sent, tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [3, 4, 5]


def test_another_trainings_log_is_kept_unless_forced(sent, tmp_path):
    (tmp_path / "log.jsonl").write_text("precious\n")
    with pytest.raises(OutputExistsError, match="the log of another training is kept"):
        train(sent, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == "precious\n"
    train(sent, tmp_path, force=True)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["precious\n", '{"text":"a row"}\n', '{"step":"1"}\n', '{"step":1}\n[]\n'])
def test_what_is_no_log_is_not_gone_on_with(sent, tmp_path, text):
    with pytest.raises(StoppedError):
        train(sent, tmp_path, stop=4)
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match="is not that of a log of steps"):
        train(sent, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == text


@pytest.mark.parametrize("place", ["log.txt", "log", "hf://org/repo/log.jsonl", "tensorboard:", "wandb:project"])
def test_a_log_of_another_kind_is_refused(place):
    with pytest.raises(UsageError, match=r"a path that ends in \.jsonl, or tensorboard:DIR"):
        step_log(place)


def test_tensorboard_gets_the_same_numbers_or_says_that_it_is_missing(sent, tmp_path):
    place = f"tensorboard:{tmp_path / 'board'}"
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="TensorBoard is not installed here") as caught:
            step_log(place)
        assert caught.value.hint == "pip install tensorboard, or --log FILE.jsonl"
        assert not (tmp_path / "board").exists()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    client_train(
        sent.package(0), client="a", data=sent.data("a"), base=sent.base, device="cpu", out=tmp_path / "u",
        watches=[step_log(place), step_log(str(tmp_path / "log.jsonl"))],
    )  # fmt: skip
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    for name in ("loss", "gradient_norm", "learning_rate"):
        found = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in found] == [1, 2, 3, 4, 5]
        assert [value for _, value in found] == pytest.approx([line[name] for line in lines(tmp_path)])
