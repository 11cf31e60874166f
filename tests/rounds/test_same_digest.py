"""One federation, played in several ways, ends in one master: by Python calls, by single commands, by make."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.forge import header_of, sha256_of
from support.keys import signing_key, write_keys
from support.parties import Federation

from fedlpp_cli import verify
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec

ROOT = Path(__file__).parents[2]
FEDLPP = f"{sys.executable} -m fedlpp_cli"
SETTINGS = """
seed = 7
base = "{base}"

[task]
max_length = 32

[lora]
rank = 4

[train]
steps = 3
batch_size = 4
learning_rate = 1e-2

[clients]
a = "data/a.jsonl"
b = "data/b.jsonl"
"""


def run(*arguments, **options):
    return subprocess.run([str(one) for one in arguments], capture_output=True, text=True, check=True, **options).stdout


def make(federation, *goals, fedlpp=FEDLPP, n_rounds=1, check=True):
    (federation.folder / "federation.toml").write_text(SETTINGS.format(base=federation.base))
    return subprocess.run(
        [
            "make", "-f", str(ROOT / "mk" / "federate.mk"), "federate", f"FEDLPP={fedlpp}", f"ROUNDS={n_rounds}",
            "CLIENTS=a b", f"FEDERATION={federation.folder / 'federation.toml'}", f"RUNS={federation.folder / 'runs'}",
            "NAME=made", *goals,
        ],
        capture_output=True, text=True, check=check, cwd=ROOT, env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip


@pytest.fixture
def federation(llama, tmp_path):
    return Federation(tmp_path, llama)


@pytest.mark.slow
def test_single_commands_and_make_end_in_the_master_of_the_python_calls(federation, played):
    """The clients' part once as a process of its own, once in two processes side by side; there packages are signed."""
    f, r = federation, federation.round(0)
    fedlpp = [sys.executable, "-m", "fedlpp_cli"]
    run(*fedlpp, "init", "--base", f.base, "--max-length", 32, "--rank", 4, "--seed", 7, "--out", f.master(0))
    run(*fedlpp, "quantize", f.master(0), "--out", f.proxy(0))
    recipe = ["--steps", 3, "--batch-size", 4, "--learning-rate", "1e-2"]
    run(*fedlpp, "pack", f.proxy(0), *recipe, "--out", f.package(0))
    for client in ("a", "b"):
        run(
            *fedlpp, "client-train", f.package(0), "--client", client, "--base", f.base, "--data", f.data(client),
            "--device", "cpu", "--out", f.update(0, client),
        )  # fmt: skip
    run(*fedlpp, "aggregate", f.master(0), *f.updates(0), "--package", r / "package", "--out", f.master(1))
    write_keys(f.folder / "clinic.pem", 1)
    make(f, "-j2", f"SIGN={f.folder / 'clinic.pem'}")
    [package, _] = verify([f.folder / "runs" / "made" / "round-0000" / "package"]).artifacts
    assert [one.fingerprint for one in package.signers] == [signing_key(1).public.fingerprint]
    made = f.folder / "runs" / "made" / "round-0001" / "master.safetensors"
    assert sha256_of(f.master(1)) == sha256_of(played.master(1)) == sha256_of(made)


def test_the_same_calls_end_in_the_same_master_again(federation, played):
    assert federation.play(1).sha256 == sha256_of(played.master(1))


def test_several_rounds_make_one_sound_chain(federation):
    federation.play(3)
    result = verify([federation.folder], complete=True)
    assert sum(one.kind == "master" for one in result.artifacts) == 4


COUNTING = """#!/bin/sh
echo "$1 $*" >> {log}
if [ "$1" = client-train ] && [ -e {trap} ]; then
  case "$*" in *updates/b.safetensors*) rm {trap}; exit 1;; esac
fi
exec {fedlpp} "$@"
"""


@pytest.mark.slow
def test_make_goes_on_where_it_stopped_and_trains_no_finished_client_twice(federation, tmp_path):
    log, trap, wrapper = tmp_path / "calls", tmp_path / "trap", tmp_path / "fedlpp.sh"
    wrapper.write_text(COUNTING.format(log=log, trap=trap, fedlpp=FEDLPP))
    wrapper.chmod(0o755)
    trap.touch()
    assert make(federation, fedlpp=wrapper, check=False).returncode != 0
    update = federation.folder / "runs" / "made" / "round-0000" / "updates" / "a.safetensors"
    before = (update.stat().st_ino, update.stat().st_mtime_ns)
    # Whatever the clocks say, what is there is done.
    os.utime(federation.folder / "runs" / "made" / "round-0000" / "package" / "manifest.json")
    make(federation, fedlpp=wrapper)
    assert (update.stat().st_ino, update.stat().st_mtime_ns) == before
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    assert {name: calls.count(name) for name in calls} == {
        "init": 1, "quantize": 1, "pack": 1, "client-train": 3, "aggregate": 1,
    }  # fmt: skip
    assert "Nothing to be done" in make(federation, fedlpp=wrapper).stdout


def test_make_says_what_is_missing(federation):
    result = subprocess.run(
        ["make", "-f", str(ROOT / "mk" / "federate.mk"), "federate"], capture_output=True, text=True, check=False,
        env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip
    assert result.returncode != 0
    assert "CLIENTS is missing" in result.stderr


def test_a_hundred_rounds_are_planned_at_once(federation):
    """Implicit rules once made this take exponential time."""
    plan = make(federation, "-n", n_rounds=100).stdout
    assert plan.count("client-train") == 200
    assert plan.count("aggregate") == 100


def test_make_gives_each_client_a_package_of_its_own_where_masks_do(federation):
    plan = make(federation, "-n", "MASKED=1", "QUANTIZE_OPTIONS=--mask-client 0.5", n_rounds=2).stdout.splitlines()
    here = federation.folder / "runs" / "made" / "round-0001"
    calls = {
        name: [line for line in plan if f"fedlpp_cli {name} " in line and str(here) in line.replace("round-0002", "")]
        for name in ("quantize", "pack", "client-train", "aggregate")
    }
    for client in ("a", "b"):
        assert any(f"--client {client} --out {here}/proxies/{client}.safetensors" in one for one in calls["quantize"])
        assert any(one.endswith(f"--out {here}/packages/{client} --quiet") for one in calls["pack"])
        assert any(f"client-train {here}/packages/{client} --client {client} " in one for one in calls["client-train"])
    assert f"--package {here}/packages/a --package {here}/packages/b " in calls["aggregate"][-1]


SCAFFOLD = {"steps": 3, "optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.0, "control_variates": True}


@pytest.mark.slow
def test_make_keeps_control_variates(federation, llama, tmp_path):
    twin = Federation(tmp_path / "twin", llama, train=TrainSpec(batch_size=4, **SCAFFOLD), keep_states=True)
    twin.play(2)
    options = "PACK_OPTIONS=--optimizer sgd --learning-rate 0.3 --weight-decay 0 --control-variates"
    refused = make(federation, options, check=False)
    assert "--state-out is missing" in refused.stderr
    make(federation, "-j2", options, "KEEP_STATE=1", n_rounds=2)
    made = federation.folder / "runs" / "made" / "round-0002" / "master.safetensors"
    assert sha256_of(made) == sha256_of(twin.master(2))


ROUNDED = "PACK_OPTIONS=--update-bits 4 --update-block 32"


@pytest.mark.slow
def test_make_keeps_states_where_it_is_told_to(federation, llama, tmp_path):
    """It goes on where a client was killed between its state and its update, and ends as the Python calls do."""
    twin = Federation(tmp_path / "twin", llama, round_updates=QuantSpec(bits="4", block=32), keep_states=True)
    twin.play(2)
    run = federation.folder / "runs" / "made"
    shutil.copytree(twin.round(0), run / "round-0000")
    (run / "round-0000" / "updates" / "a.safetensors").unlink()
    make(federation, "-j2", ROUNDED, "KEEP_STATE=1", n_rounds=2)
    for number, client in ((0, "a"), (0, "b"), (1, "a"), (1, "b")):
        made = run / f"round-{number:04d}" / "states" / f"{client}.safetensors"
        assert sha256_of(made) == sha256_of(twin.state(number, client))
    assert sha256_of(run / "round-0002" / "master.safetensors") == sha256_of(twin.master(2))


@pytest.mark.slow
def test_make_goes_on_with_what_the_optimizer_remembers(federation, llama, tmp_path):
    """The master that it starts from is all that it has; it ends as the Python calls do that ran through."""
    spec = AggregateSpec(server_optimizer="yogi", server_learning_rate=0.02, tau=0.01)
    twin = Federation(tmp_path / "twin", llama, aggregate=spec)
    twin.play(2)
    run = federation.folder / "runs" / "made"
    shutil.copytree(twin.round(0), run / "round-0000")
    (run / "round-0001").mkdir()
    shutil.copy(twin.master(1), run / "round-0001")
    options = "AGGREGATE_OPTIONS=--server-optimizer yogi --server-learning-rate 0.02 --tau 0.01"
    make(federation, "-j2", options, n_rounds=2)
    assert sha256_of(run / "round-0002" / "master.safetensors") == sha256_of(twin.master(2))
    assert header_of(twin.master(2)).spec.optimizer_steps == 2


def test_make_names_states_only_where_it_is_told_to(federation):
    assert "--state" not in make(federation, "-n", ROUNDED, n_rounds=3).stdout
    plan = make(federation, "-n", ROUNDED, "KEEP_STATE=1", n_rounds=3).stdout
    trained = [line for line in plan.splitlines() if "client-train" in line and "--client a" in line]
    for number, line in enumerate(trained):
        assert f"round-{number:04d}/states/a.safetensors" in line.partition("--state-out ")[2]
        before = f"--state {federation.folder}/runs/made/round-{number - 1:04d}/states/a.safetensors"
        assert (before in line) == (number > 0)
    assert len(trained) == 3
