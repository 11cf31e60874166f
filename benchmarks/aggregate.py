"""`make bench-aggregate`: folding updates, against Flower and numpy on the same CPU in the same run.

Flower is installed into a virtual environment of its own, outside of the project, once; where that does not work, its
rows are left out. What is timed is reading the files and making the mean, on both sides: neither checks anything. A
row of its own says what the whole command takes, with digests, checks, report and the next master.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from opponents import flower_python
from table import FAST, Table, best_of
from updates import CHILD, open_updates, shapes_of, write_updates

from fedlpp_cli.aggregation.measures import Folding
from fedlpp_cli.aggregation.rules import Plan
from fedlpp_cli.aggregation.stack import Stack
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec

N_CLIENTS = 16
N_MODULES = 8 if FAST else 300
MANY = 16 if FAST else 64
HERE = Path(__file__).parent


def main() -> None:
    """Measure, print, write."""
    table = Table("aggregate")
    shapes = shapes_of(N_MODULES)
    n_values = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"{N_CLIENTS} updates of {n_values:,} parameters, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        full = write_updates(Path(folder) / "full", shapes, N_CLIENTS, FULL_PRECISION)
        _add_mean(table, full, shapes)
        _add_rounded(table, Path(folder) / "rounded", full, shapes)
        _add_sorted(table, full, shapes)
        _add_memory(table, Path(folder) / "many")
    table.write("torch", "numba", "numpy")


def fold(paths: list[Path], shapes: dict[str, tuple[int, ...]], trimmed: int | None = None) -> None:
    """Every component, one after the other; nothing is kept."""
    with open_updates(paths) as updates:
        stack = Stack(updates, shapes, threads=torch.get_num_threads())
        plan = Plan((1 / len(paths),) * len(paths), trimmed)
        for _ in Folding(stack, [1.0] * len(paths), plan).results(shapes):
            pass


def _add_mean(table: Table, paths: list[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    buffer = memoryview(bytearray(2**20))

    def read() -> None:
        for path in paths:
            with path.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    once, ours = best_of(read, runs=3), best_of(lambda: fold(paths, shapes), runs=3)
    table.add("reading the files once", once, "s")
    table.add("mean of fp32 updates: fedlpp", ours, "s")
    table.add("mean of fp32 updates: against reading the files once", ours / once, "x", "<=2.5")
    python = flower_python()
    if python is None:
        print("Flower could not be installed: its rows are left out")
        return
    command = [python, str(HERE / "flower_mean.py"), *map(str, paths)]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table.add(f"mean of fp32 updates: Flower {theirs['version']}", theirs["seconds"], "s")
    table.add("mean of fp32 updates: times faster", theirs["seconds"] / ours, "x", ">=20")


def _add_rounded(table: Table, folder: Path, full: list[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    paths = write_updates(folder, shapes, N_CLIENTS, QuantSpec(bits="8"))
    ours, rounded = best_of(lambda: fold(full, shapes), runs=3), best_of(lambda: fold(paths, shapes), runs=3)
    table.add("mean of 8-bit updates: against fp32 updates", rounded / ours, "x", "<=1")


def _add_sorted(table: Table, paths: list[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    with open_updates(paths) as updates:
        names = list(shapes)[: 4 if FAST else 16]
        few = {name: shapes[name] for name in names}
        stacked = np.stack([np.concatenate([one.read(name).numpy().ravel() for name in names]) for one in updates])
        cases = {
            "median": (
                (N_CLIENTS - 1) // 2,
                lambda: np.median(stacked, axis=0),
            ),
            "trimmed mean": (
                3,
                lambda: np.sort(stacked, axis=0)[3 : N_CLIENTS - 3].mean(axis=0, dtype=np.float64),
            ),
        }
        for name, (trimmed, theirs) in cases.items():
            plan = Plan((1 / N_CLIENTS,) * N_CLIENTS, trimmed)
            folding = Folding(Stack(updates, few, threads=torch.get_num_threads()), [1.0] * N_CLIENTS, plan)
            found = np.concatenate([value.ravel() for _, value in folding.results(few)])
            table.add(f"{name}: equal to numpy's", float(np.allclose(found, theirs(), atol=1e-6)), "yes = 1", ">=1")
            seconds = best_of(lambda trimmed=trimmed: fold(paths, few, trimmed), runs=3)
            table.add(f"{name}: times numpy on arrays in memory", best_of(theirs, runs=1) / seconds, "x", ">=4")


def _add_memory(table: Table, folder: Path) -> None:
    """Anonymous memory of a process that runs the whole command, for few and for many clients."""
    few = json.loads(_child(folder / "few", 4))
    many = json.loads(_child(folder / "many", MANY))
    table.add("aggregate, 4 clients: peak anonymous memory", few["peak"] / 1e6, "MB", "<=600")
    table.add(f"aggregate, {MANY} clients: peak anonymous memory", many["peak"] / 1e6, "MB", "<=600")
    table.add(f"peak anonymous memory, 4 to {MANY} clients", many["peak"] / few["peak"], "x", "<=1.1")
    table.add(f"aggregate, {MANY} clients, with digests, checks and report", many["seconds"], "s")


def _child(folder: Path, n_clients: int) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", CHILD, str(folder), str(n_clients), str(N_MODULES)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
