"""How a client computes: stated in the result; another way of it gives nearly the same update; memory that runs out."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.forge import read_all, sha256_of
from support.parties import Federation

from fedlpp_cli import client_train
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.specs import TrainSpec

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Sums in another order: of values of about 3e-2, after three steps of AdamW.
TOLERANCE = 1e-5


def train(federation, out, **options):
    where = {"client": "a", "data": federation.data("a"), "device": "cpu"}
    where["base"] = None if federation.private_base else federation.base
    return client_train(federation.package(0), out=out, **where, **options)


def arguments(federation, out):
    return [
        "client-train", str(federation.package(0)), "--client", "a", "--data", str(federation.data("a")),
        "--base", str(federation.base), "--device", "cpu", "--out", str(out), "--json",
    ]  # fmt: skip


def close(one, other):
    return all(torch.allclose(one[name], other[name], rtol=0, atol=TOLERANCE) for name in one)


@pytest.mark.parametrize("options", [{}, {"backend": "dense-fp32"}])
def test_dense_is_what_it_always_was(played, tmp_path, options):
    result = train(played, tmp_path / "out", compute=ComputeSpec(**options))
    assert (result.compute.backend, result.compute.attention) == ("dense-fp32", "sdpa")
    assert result.sha256 == sha256_of(played.update(0, "a"))


@pytest.mark.parametrize("options", [{"micro_batch": 1}, {"micro_batch": 3}, {"gradient_checkpointing": True}])
def test_less_memory_and_the_same_update_but_for_rounding(played, tmp_path, options):
    train(played, tmp_path / "out", compute=ComputeSpec(**options))
    assert close(read_all(tmp_path / "out"), read_all(played.update(0, "a")))


def test_a_public_base_is_rounded_when_it_is_opened(played, tmp_path):
    result = train(played, tmp_path / "out", compute=ComputeSpec(backend="bnb-4bit"))
    assert (result.compute.backend, result.compute.reason) == ("bnb-4bit", "asked for")
    assert result.metrics.loss_last < result.metrics.loss_first
    assert not close(read_all(tmp_path / "out"), read_all(played.update(0, "a")))


def test_a_private_base_in_bitsandbytes_layout_can_stay_as_it_is(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, private_base=True)
    federation.init()
    federation.send(0)
    dense = train(federation, tmp_path / "dense")
    quantized = train(federation, tmp_path / "quantized", compute=ComputeSpec(backend="bnb-4bit"))
    assert (dense.compute.backend, quantized.compute.backend) == ("dense-fp32", "bnb-4bit")
    assert quantized.metrics.loss_first == pytest.approx(dense.metrics.loss_first, rel=1e-2)


def test_a_dry_run_measures_steps_and_leaves_nothing(played, tmp_path):
    plan = train(played, tmp_path / "out", dry_run=True).plan
    assert list(tmp_path.iterdir()) == []
    assert plan.n_trial_steps == 3
    assert min(plan.step_seconds, plan.total_seconds, plan.memory_peak, plan.bytes_down, plan.bytes_up) > 0
    assert plan.bytes_down == sum(path.stat().st_size for path in played.package(0).iterdir())
    result = train(played, tmp_path / "out")
    assert (result.plan, result.sha256) == (None, sha256_of(played.update(0, "a")))
    assert plan.n_tokens == result.metrics.n_tokens


def test_a_dry_run_without_steps_opens_no_model(played, tmp_path):
    plan = train(played, tmp_path / "out", dry_run=True, compute=ComputeSpec(trial_steps=0)).plan
    assert (plan.n_trial_steps, plan.step_seconds, plan.memory_peak) == (0, None, None)
    assert plan.n_base_parameters == 7248


def test_gpus_that_are_not_there(played, tmp_path):
    where = {"client": "a", "data": played.data("a"), "base": played.base}
    with pytest.raises(UsageError, match="--device split: torch sees 0 GPUs here"):
        client_train(played.package(0), out=tmp_path / "o", device="split", **where)


def test_two_processes_make_the_update_of_one_and_the_same_one_twice(played, tmp_path):
    found = []
    for out in (tmp_path / "one", tmp_path / "two"):
        command = [*TORCHRUN, "-m", "fedlpp_cli", *arguments(played, out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        (line,) = done.stdout.splitlines()
        found.append(json.loads(line)["data"])
    assert found[0]["compute"]["n_processes"] == 2
    assert found[0]["sha256"] == found[1]["sha256"] == sha256_of(tmp_path / "two")
    assert close(read_all(tmp_path / "one"), read_all(played.update(0, "a")))
    assert found[0]["metrics"]["n_tokens"] > 0


def test_processes_that_divide_the_base_make_the_update_of_one(llama, tmp_path):
    """Of three rows, one at a time, the second process has one less than the first."""
    federation = Federation(tmp_path / "run", llama, train=TrainSpec(steps=2, batch_size=3))
    federation.init()
    federation.send(0)
    train(federation, tmp_path / "whole")
    options = ["--shard-base", "--gradient-checkpointing", "--micro-batch", "1"]
    command = [*TORCHRUN, "-m", "fedlpp_cli", *arguments(federation, tmp_path / "out"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (line,) = done.stdout.splitlines()
    compute = json.loads(line)["data"]["compute"]
    assert (compute["shard_base"], compute["n_processes"], compute["backend"]) == (True, 2, "dense-fp32")
    assert close(read_all(tmp_path / "out"), read_all(tmp_path / "whole"))


def test_one_process_has_nobody_to_divide_the_base_with(played, tmp_path):
    with pytest.raises(UsageError, match="--shard-base: this is a single process"):
        train(played, tmp_path / "out", compute=ComputeSpec(shard_base=True))


def test_memory_that_runs_out_is_one_line_and_leaves_nothing(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, train=TrainSpec(steps=1, batch_size=200_000))
    federation.init()
    federation.send(0)
    rows = '{"prompt": "ab ", "completion": "cd ef gh ij kl mn op ab cd ef"}\n'
    federation.data("a").write_text(rows * 200_000)
    out = tmp_path / "out"
    # What the process has before it trains, and not much more: the batch alone takes several times that.
    code = """
import resource, sys
from fedlpp_cli.cli.app import app
from fedlpp_cli.models.free_memory import _kilobytes
from fedlpp_cli.steps import client_train as step
from pathlib import Path
train_update = step.train_update
def limited(*arguments):
    now = _kilobytes(Path("/proc/self/status"), "VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
    return train_update(*arguments)
step.train_update = limited
app(sys.argv[1:])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments(federation, out), "--compute", "dense-fp32"],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 11, done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["exit_code"]) == ("out-of-memory", 11)
    assert error["message"] == "memory ran out while training, with dense-fp32; nothing was written"
    assert error["hint"].startswith("--micro-batch 50000, or --gradient-checkpointing")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
