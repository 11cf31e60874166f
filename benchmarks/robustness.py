"""`make bench-robustness`: what every rule makes of every attack, in whole federations with rounded proxies.

A cell is a federation of 20 clients that is simulated from its start: a tiny classifier (`topics.py`), LoRA, 3-bit
proxies, real packages, updates and aggregates. Its value is the accuracy of the central model on held-out texts after
the last round, mean over seeds; of a backdoor also how often the trigger opens it.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from table import FAST, Table
from topics import LABELS, TRIGGER, make_base, write_rows

from fedlpp_cli import evaluate, simulate
from fedlpp_cli.aggregation.rules import check_numbers
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.partition import dirichlet_shards, iid_shards
from fedlpp_cli.errors import GateError, QuorumError
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.specs import AggregateSpec, EvaluateSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec

N_CLIENTS: Final = 20
N_ROUNDS: Final = 6
TRAIN: Final = TrainSpec(steps=5, batch_size=16, learning_rate=1e-2, weight_decay=0.0)
TARGET: Final = LABELS[0]
SEEDS: Final = (0,) if FAST else (0, 1)
PARTITIONS: Final = ("iid",) if FAST else ("iid", "dirichlet 0.3")
N_ATTACKERS: Final = (4,) if FAST else (4, 8)
CLIPPED: Final = "mean, clip to median"
# Rules, as columns are; only these change with the number of attackers that they are told.
RULES: Final = ("mean", CLIPPED, "median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median",
                "centered-clipping", "fltrust")  # fmt: skip
TOLD: Final = frozenset({"trimmed-mean", "krum", "multi-krum", "bulyan"})
SHOWN: Final = ("mean", "median", "multi-krum") if FAST else RULES
NONE, BACKDOOR = "none", "backdoor x10"
ATTACKS: Final[dict[str, dict[str, object]]] = {
    "sign flip x10": {"attack": "sign-flip", "scale": 10.0},
    "ALIE z=1.5": {"attack": "alie", "scale": 1.5},
    "IPM 0.5": {"attack": "ipm", "scale": 0.5},
    "IPM 10": {"attack": "ipm", "scale": 10.0},
    "label flip": {"attack": "label-flip"},
    BACKDOOR: {"attack": "backdoor", "scale": 10.0, "trigger": TRIGGER, "target_label": TARGET},
}
ATTACKS_RUN: Final = (NONE, "sign flip x10", BACKDOOR) if FAST else (NONE, *ATTACKS)
# Of the accuracy that the mean reaches where nobody attacks.
KEPT: Final = 0.8
# A model whose loss is no number, or a round that cannot be closed.
BROKEN: Final = 0.0


@dataclass(frozen=True)
class Cell:
    """One federation."""

    partition: str
    n_attackers: int
    attack: str
    rule: str
    seed: int

    @property
    def key(self) -> "Cell":
        """Equal for cells that are one federation: without attackers only some rules care how many they expect."""
        same = self.attack == NONE and self.rule not in TOLD
        return Cell(self.partition, N_ATTACKERS[0] if same else self.n_attackers, self.attack, self.rule, self.seed)

    @property
    def spec(self) -> AggregateSpec:
        """The rule, told the number of attackers."""
        if self.rule == CLIPPED:
            return AggregateSpec(clip_to_median=True)
        told = 0 if self.rule in {"mean", "fltrust"} else self.n_attackers
        return AggregateSpec(rule=self.rule, n_malicious=told)

    @property
    def is_bound_met(self) -> bool:
        """Whether the rule takes so many attackers among so many clients."""
        try:
            check_numbers(self.spec, N_CLIENTS)
        except QuorumError:
            return False
        return True


@dataclass(frozen=True)
class Outcome:
    """Accuracy and, of a backdoor, how often it opens; what went wrong, if the federation came to no usable end."""

    accuracy: float = BROKEN
    success: float | None = None
    problem: str | None = None


def main() -> None:
    """Measure, print, write."""
    table = Table("robustness")
    grid = [Cell(*one) for one in product(PARTITIONS, N_ATTACKERS, ATTACKS_RUN, SHOWN, SEEDS)]
    with tempfile.TemporaryDirectory(prefix="fedlpp-bench-") as folder:
        _make_task(Path(folder))
        outcomes = _play_all(Path(folder), sorted({cell.key for cell in grid if cell.is_bound_met}, key=_order))
    _add_rows(table, outcomes)
    for partition, n_attackers in product(PARTITIONS, N_ATTACKERS):
        _print(partition, n_attackers, outcomes)
    table.write("torch", "transformers", "numpy")


def _order(cell: Cell) -> tuple[int, int, str, str, str]:
    return cell.seed, cell.n_attackers, cell.partition, cell.attack, cell.rule


def _make_task(folder: Path) -> None:
    """Base, clients' data for each seed and partition, the owner's, and the test rows."""
    make_base(folder / "base")
    write_rows(folder / "test.jsonl", 1000, seed=2)
    write_rows(folder / "triggered.jsonl", 1000, seed=2, trigger_for=TARGET)
    for seed in SEEDS:
        write_rows(folder / f"owner-{seed}.jsonl", 100, seed=100 + seed)
        rows = write_rows(folder / f"all-{seed}.jsonl", 100 * N_CLIENTS, seed=200 + seed)
        lines = rows.read_text().splitlines(keepends=True)
        labels = [LABELS[number % len(LABELS)] for number in range(len(lines))]
        for partition in PARTITIONS:
            shards = (
                iid_shards(len(lines), N_CLIENTS, seed=seed)
                if partition == "iid"
                else dirichlet_shards(labels, N_CLIENTS, alpha=0.3, seed=seed)
            )
            for client, shard in enumerate(shards):
                path = _client_data(folder, partition, seed, client)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(lines[row] for row in shard))


def _client_data(folder: Path, partition: str, seed: int, client: int) -> Path:
    return folder / "clients" / f"{partition}-{seed}" / f"client-{client:02d}.jsonl"


def _play_all(folder: Path, cells: Sequence[Cell]) -> dict[Cell, Outcome]:
    """As many at once as there are cores, each with one thread: what comes out does not depend on it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    outcomes: dict[Cell, Outcome] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, (cell, outcome) in enumerate(zip(cells, pool.map(partial(play, folder), cells), strict=True), 1):
            outcomes[cell] = outcome
            print(f"{number} of {len(cells)}: {cell}: {outcome}", file=sys.stderr, flush=True)
    return outcomes


def play(folder: Path, cell: Cell) -> Outcome:
    """Simulate the federation and score what it ends in."""
    clients = {f"client-{k:02d}": _client_data(folder, cell.partition, cell.seed, k) for k in range(N_CLIENTS)}
    if cell.rule == "fltrust":
        clients["owner"] = folder / f"owner-{cell.seed}.jsonl"
    attack = AttackSpec(n_attackers=cell.n_attackers, **ATTACKS[cell.attack]) if cell.attack != NONE else None
    federation = FederationSpec(
        base=folder / "base",
        seed=cell.seed,
        task=TaskSpec(kind="seq-cls", labels=LABELS, max_length=24),
        lora=LoraSpec(rank=4, alpha=8.0, target_modules=("query", "value")),
        quantize=QuantSpec(bits="3"),
        train=TRAIN,
        aggregate=cell.spec,
        reference="owner" if cell.rule == "fltrust" else None,
    )
    with tempfile.TemporaryDirectory(dir=folder) as run, quiet_libraries():
        try:
            simulate(federation, clients, out=run, n_rounds=N_ROUNDS, attack=attack, keep_updates=False, device="cpu")
            master = Path(run) / f"round-{N_ROUNDS:04d}" / "master.safetensors"
            accuracy = _accuracy(master, folder / "test.jsonl", folder / "base")
            success = _accuracy(master, folder / "triggered.jsonl", folder / "base")
        except GateError as problem:
            return Outcome(success=BROKEN if cell.attack == BACKDOOR else None, problem=str(problem))
    return Outcome(accuracy, success if cell.attack == BACKDOOR else None)


def _accuracy(master: Path, data: Path, base: Path) -> float:
    scored = evaluate([master], data=data, base=base, device="cpu", spec=EvaluateSpec(batch_size=200))
    return next(row.scores["accuracy"] for row in scored.rows if row.model == "central")


def _mean(outcomes: dict[Cell, Outcome], *where: object) -> tuple[float, float | None] | None:
    """Accuracy and success of a cell over the seeds; None where the rule does not take so many attackers."""
    cells = [Cell(*where, seed) for seed in SEEDS]
    if not cells[0].is_bound_met:
        return None
    found = [outcomes[cell.key] for cell in cells]
    opened = [one.success for one in found if one.success is not None]
    return statistics.fmean(one.accuracy for one in found), statistics.fmean(opened) if opened else None


def _add_rows(table: Table, outcomes: dict[Cell, Outcome]) -> None:
    """Goals are for rules that promise something of so many attackers, and where their papers look: clients alike."""
    for partition, n_attackers in product(PARTITIONS, N_ATTACKERS):
        free = _mean(outcomes, partition, n_attackers, NONE, "mean")
        for attack, rule in product(ATTACKS_RUN, SHOWN):
            found = _mean(outcomes, partition, n_attackers, attack, rule)
            if found is None or free is None:
                continue
            promises = rule not in {"mean", CLIPPED} and partition == "iid" and attack != NONE
            name = f"{partition}, {n_attackers} of {N_CLIENTS}, {attack}: {rule}"
            table.add(name, found[0], "accuracy", f">={KEPT * free[0]:.4f}" if promises else "")
            if found[1] is not None:
                table.add(f"{name}: opens", found[1], "share")


def _print(partition: str, n_attackers: int, outcomes: dict[Cell, Outcome]) -> None:
    """In percent; a backdoor as accuracy / how often it opens."""
    print(f"\n{partition}, {n_attackers} of {N_CLIENTS} against the owner; accuracy in % after {N_ROUNDS} rounds\n")
    print("| `--rule` |" + "".join(f" {attack} |" for attack in ATTACKS_RUN))
    print("|---|" + "---|" * len(ATTACKS_RUN))
    for rule in SHOWN:
        cells = []
        for attack in ATTACKS_RUN:
            found = _mean(outcomes, partition, n_attackers, attack, rule)
            opened = "" if found is None or found[1] is None else f" / {100 * found[1]:.0f}"
            cells.append("-" if found is None else f"{100 * found[0]:.1f}{opened}")
        print(f"| {rule} |" + "".join(f" {cell} |" for cell in cells))
    for rule in SHOWN:
        try:
            check_numbers(Cell(partition, n_attackers, NONE, rule, 0).spec, N_CLIENTS)
        except QuorumError as problem:
            print(f"\n-: {problem}")
    broken = [one for one in outcomes.values() if one.problem is not None]
    if broken:
        print(f"\n{len(broken)} federations of all tables came to no usable end and count as 0: {broken[0].problem}")


if __name__ == "__main__":
    main()
