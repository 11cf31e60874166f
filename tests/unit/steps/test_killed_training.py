"""A client's training that is killed, wherever that is: the same command goes on, and the update is the same.

The killed processes are forks of one that has everything imported; the last tests run the real program.
"""

import signal
import subprocess
import sys
import time

import pytest
from support.forge import header_of, sha256_of
from support.parties import Federation

from fedlpp_cli import client_train
from fedlpp_cli.records.specs import LoraSpec, QuantSpec, TrainSpec
from fedlpp_cli.steps.checkpoints import Checkpointing

N_STEPS, EVERY = 6, 2
# Reads lines "POINT COUNT OUT": a fork trains and kills itself when it comes to that point for the COUNTth time.
FORKS = """
import os, signal, sys
from fedlpp_cli.artifact import tensor_file, whole
from fedlpp_cli.steps import checkpoints, client_train as step
from fedlpp_cli.training import loop

package, base, data, work = sys.argv[1:]

def dying(owner, name, count, after=False, of=lambda *_, **__: True):
    real, seen = getattr(owner, name), [0]
    def run(*arguments, **options):
        result = real(*arguments, **options) if after else None
        seen[0] += of(*arguments, **options)
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if after else real(*arguments, **options)
    setattr(owner, name, run)

def is_named(name):
    return lambda draft, target, **_: target.name == name

POINTS = {
    "before a step": lambda n: dying(loop.Training, "_step", n),
    "in a step": lambda n: dying(loop.LossGate, "check", n),
    "after a step": lambda n: dying(loop.Training, "_step", n, after=True),
    "before a checkpoint": lambda n: dying(checkpoints.Checkpoints, "_save", n),
    "half a checkpoint": lambda n: dying(tensor_file.TensorWriter, "write", n),
    "before a checkpoint's name": lambda n: dying(whole, "_give_name", n, of=is_named("c")),
    "after a checkpoint's name": lambda n: dying(whole, "_give_name", n, after=True, of=is_named("c")),
    "before rounding": lambda n: dying(step, "write_update", n),
    "before the state's name": lambda n: dying(whole, "_give_name", n, of=is_named("s")),
    "before the update's name": lambda n: dying(whole, "_give_name", n, of=is_named("u")),
    "after the update's name": lambda n: dying(whole, "_give_name", n, after=True, of=is_named("u")),
    "before the checkpoint goes": lambda n: dying(checkpoints.Checkpoints, "remove", n),
}
print("ready", flush=True)
for line in sys.stdin:
    point, count, out = line.rstrip("\\n").split("|")
    if not (child := os.fork()):
        POINTS[point](int(count))
        step.client_train(
            package, client="a", data=data, base=base, device="cpu", out=f"{out}/u", state_out=f"{out}/s",
            checkpoint=checkpoints.Checkpointing(path=f"{out}/c", n_steps=EVERY),
        )
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory, llama):
    """Rounded updates, dropout, FedProx, and one client's update and state as they come without a kill."""
    made = Federation(
        tmp_path_factory.mktemp("federation"), llama, lora=LoraSpec(rank=4, dropout=0.2), keep_states=True,
        train=TrainSpec(steps=N_STEPS, batch_size=4, learning_rate=1e-2, proximal_mu=0.5),
        round_updates=QuantSpec(bits="3"),
    )  # fmt: skip
    made.init()
    made.send(0)
    made.train_client(0, "a")
    return made


@pytest.fixture(scope="module")
def forks(federation):
    """Trains in a fork that dies at a point, and says what it ended with."""
    arguments = [federation.package(0), federation.base, federation.data("a"), federation.folder]
    code = FORKS.replace("EVERY", str(EVERY))
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"

        def run(point, count, out):
            print(f"{point}|{count}|{out}", file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def train(federation, out, **options):
    return client_train(
        federation.package(0), client="a", data=federation.data("a"), base=federation.base, device="cpu",
        out=out / "u", state_out=out / "s", checkpoint=Checkpointing(path=out / "c", n_steps=EVERY), **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("point", "count", "expected"),
    [
        # the step that the next run goes on from; None for the first, "there" where nothing is left to do
        ("before a step", 3, 2),
        ("in a step", 4, 2),
        ("after a step", 5, 4),
        ("before a checkpoint", 3, 4),
        ("half a checkpoint", 150, 2),
        ("before a checkpoint's name", 1, None),
        ("before a checkpoint's name", 2, 2),
        ("after a checkpoint's name", 3, 6),
        ("before rounding", 1, 6),
        ("before the state's name", 1, 6),
        ("before the update's name", 1, 6),
        ("after the update's name", 1, "there"),
        ("before the checkpoint goes", 1, "there"),
    ],
)
def test_whoever_is_killed_there_loses_an_interval_at_most_and_ends_in_the_same_update(
    federation, forks, tmp_path, point, count, expected
):
    assert forks(point, count, tmp_path) == -signal.SIGKILL
    assert (tmp_path / "u").exists() == (expected == "there")
    if expected == "there":
        assert sha256_of(tmp_path / "u") == sha256_of(federation.update(0, "a"))
        assert header_of(tmp_path / "c").spec.n_steps == N_STEPS
    result = train(federation, tmp_path, force=(tmp_path / "s").exists())
    assert result.resumed_from == (N_STEPS if expected == "there" else expected)
    assert sha256_of(tmp_path / "u") == sha256_of(federation.update(0, "a"))
    assert sha256_of(tmp_path / "s") == sha256_of(federation.state(0, "a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "u"]


def test_killed_again_and_again_it_gets_there(federation, forks, tmp_path):
    """Two steps at a time; each run is killed in its fourth, of which the last two are lost."""
    reached = []
    while forks("before a step", 4, tmp_path) == -signal.SIGKILL:
        reached.append(header_of(tmp_path / "c").spec.n_steps)
    assert reached == [2, 4]
    assert sha256_of(tmp_path / "u") == sha256_of(federation.update(0, "a"))


# The program


@pytest.fixture(scope="module")
def endless(tmp_path_factory, llama):
    """A recipe of so many steps that nobody waits for them, and one that ends where the first was stopped."""
    made = Federation(
        tmp_path_factory.mktemp("endless"), llama, lora=LoraSpec(rank=4, dropout=0.2),
        train=TrainSpec(steps=100_000, batch_size=2),
    )  # fmt: skip
    made.init()
    made.send(0)
    return made


def program(federation, out, *options):
    arguments = [
        "client-train", federation.package(0), "--base", federation.base, "--client", "a", "--data",
        federation.data("a"), "--device", "cpu", "--out", out / "u", "--checkpoint", out / "c", *options,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "fedlpp_cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def step_of(path):
    return header_of(path).spec.n_steps


def test_ctrl_c_keeps_what_was_trained_and_tells_how_to_go_on(endless, tmp_path):
    checkpoint, log = tmp_path / "c", tmp_path / "log.jsonl"
    options = ["--checkpoint-every", "5", "--log", log]
    for _ in range(2):
        before = step_of(checkpoint) if checkpoint.exists() else 0
        with program(endless, tmp_path, *options) as process:
            wait_for(lambda: checkpoint.exists() and step_of(checkpoint) > before, process)  # noqa: B023
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate()
        assert (process.returncode, stdout) == (130, "")
        reached = step_of(checkpoint)
        assert stderr == (
            f"error: interrupted after step {reached} of 100000; {checkpoint} holds it\n"
            "  hint: the same command goes on from there\n"
        )
        assert len(log.read_text().splitlines()) == reached
    assert not (tmp_path / "u").exists()


def test_kill_9_of_the_program_leaves_a_whole_checkpoint_and_the_next_run_goes_on_from_it(endless, tmp_path):
    checkpoint = tmp_path / "c"
    steps = []
    for _ in range(2):
        before = step_of(checkpoint) if checkpoint.exists() else 0
        with program(endless, tmp_path, "--checkpoint-every", "1") as process:
            wait_for(lambda: checkpoint.exists() and step_of(checkpoint) > before + 3, process)  # noqa: B023
            process.kill()
        steps.append(step_of(checkpoint))
    assert steps == sorted(set(steps))
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["c"]
