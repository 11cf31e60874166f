"""`make bench-train`: a client's training, against a plain PEFT loop and transformers' Trainer on the same CPU.

One function a row. The model is a Llama with random weights, made here. Who is compared takes turns, repetition by
repetition, and medians are compared: what else the machine does meets both.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from table import FAST, Table
from train_models import BATCH, PEAK_CHILD, Loops, make_base, make_demo
from train_private import steps

N_STEPS = 3 if FAST else 8


def main() -> None:
    """Measure, print, write."""
    table = Table("train")
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder) / "base", n_layers=2 if FAST else 8)
        wide = make_base(
            Path(folder) / "wide", n_layers=1, hidden=2048 if FAST else 4096, inner=5504 if FAST else 11008
        )
        _add_against_plain(table, base)
        _add_mixed(table, base)
        _add_against_trainer(table, wide)
        _add_private(table, base)
        _add_memory(table, base)
        _add_start(table, Path(folder))
    table.write("torch", "transformers", "peft", "bitsandbytes")


def in_turns(*steps: Callable[[], object], runs: int) -> list[float]:
    """Median seconds of each, after a run that is not counted; one run of each after the other."""
    times: list[list[float]] = [[] for _ in steps]
    for run in range(runs + 1):
        for number, step in enumerate(steps):
            start = time.perf_counter()
            step()
            if run:
                times[number].append(time.perf_counter() - start)
    return [statistics.median(one) for one in times]


def _add_against_plain(table: Table, base: Path) -> None:
    loops = Loops(base)
    ours, plain = in_turns(loops.ours(), loops.plain(), runs=N_STEPS)
    print(f"{loops.n_parameters:,} parameters, {loops.n_tokens} tokens a step, {torch.get_num_threads()} threads, bf16")
    table.add("step: plain PEFT loop, dense bf16", plain, "s")
    table.add("step: fedlpp, dense bf16", ours, "s")
    table.add("step: fedlpp against the plain loop", ours / plain, "x", "<=1.05")


def _add_mixed(table: Table, base: Path) -> None:
    """Whole rounds of four batches: both see every example once a round, in different batches."""
    loops = Loops(base, mixed=True)
    ours, plain = loops.ours(), loops.plain()
    ours_s, plain_s = in_turns(
        lambda: [ours() for _ in range(4)], lambda: [plain() for _ in range(4)], runs=1 if FAST else 3
    )
    n_tokens = 4 * loops.n_tokens
    table.add("mixed lengths: plain loop, padded to the longest", n_tokens / plain_s, "tokens/s")
    table.add("mixed lengths: fedlpp, packed", n_tokens / ours_s, "tokens/s")
    table.add("mixed lengths: fedlpp, times the plain loop's tokens a second", plain_s / ours_s, "x", ">=1.5")


def _add_against_trainer(table: Table, base: Path) -> None:
    """Layers as wide as those of a model with 7 billion weights: that is where 4-bit layers are used.

    What quantized layers cost beside the multiplication is the same for every number of tokens. The goal is about 256,
    as the figure that it was made from.
    """
    for n_tokens in (64, 256, 512):
        loops = Loops(base, length=n_tokens // BATCH)
        dense, rounded = loops.ours(), loops.ours(quantized=True)
        found = [
            (*in_turns(dense, rounded, runs=2), statistics.median(loops.trainer_seconds(n_steps=3)))
            for _ in range(1 if FAST else 3)
        ]
        ours, quantized, trainer = (min(times) for times in zip(*found, strict=True))
        at = f"step of {n_tokens} tokens, wide layers"
        table.add(f"{at}: transformers Trainer, bitsandbytes 4-bit", trainer, "s")
        table.add(f"{at}: fedlpp, --compute bnb-4bit", quantized, "s")
        goal = ">=2.5" if n_tokens == 256 else ""
        table.add(f"{at}: fedlpp dense, times faster than the Trainer", trainer / ours, "x", goal)


def _add_private(table: Table, base: Path) -> None:
    """The same batches for both: Poisson's are of other sizes, and as large on average."""
    loops = Loops(base)
    private, ours = in_turns(steps(loops, private=True), steps(loops, private=False), runs=N_STEPS)
    table.add("step: fedlpp, privacy for examples", private, "s")
    table.add("step: privacy for examples against without", private / ours, "x", "<=2.0")


def _add_memory(table: Table, base: Path) -> None:
    """Each in a process of its own, peak resident memory less that of the libraries' files."""
    peaks = {}
    for who in ("plain", "ours"):
        command = [sys.executable, "-c", PEAK_CHILD, str(base), who]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
        peaks[who] = json.loads(done.stdout.splitlines()[-1])
    table.add("memory: plain PEFT loop, peak", peaks["plain"] / 1e9, "GB")
    table.add("memory: fedlpp, peak", peaks["ours"] / 1e9, "GB")
    table.add("memory: fedlpp against the plain loop", peaks["ours"] / peaks["plain"], "x", "<=1.1")


def _add_start(table: Table, folder: Path) -> None:
    """From the command to the end of its first and only step, writing included."""
    arguments = make_demo(folder / "demo")
    seconds, of_cpu = [], []
    for run in range(2 if FAST else 4):
        before, start = os.times(), time.perf_counter()
        out = str(folder / f"update-{run}.safetensors")
        subprocess.run([sys.executable, "-m", "fedlpp_cli", *arguments, "--out", out, "-q"], check=True, stdout=-3)
        after = os.times()
        seconds.append(time.perf_counter() - start)
        of_cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
    table.add("from command to the end of one step on the demo package", min(seconds[1:]), "s", "<=6")
    table.add("the same, CPU time", min(of_cpu[1:]), "s")


if __name__ == "__main__":
    main()
