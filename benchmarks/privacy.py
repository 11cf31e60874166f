"""`make bench-privacy`: what attackers recover of the owner's model, by bits, blocks, update rules and private bases.

A cell is a federation that is simulated from its start and then audited: MiniLM on WordNet's glosses, or the demo's
language model, with settings and clients of those examples. It is a fraction of the design bits x block x update rule x
base: each factor is varied around 3 bits, block 64, update rule 1 and a public base, and a few are crossed; what was
left out is said at the end. What a cell came to is kept in `benchmarks/work`: interrupted, it goes on (JOBS: how many
cells at once).
"""

import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

from kept_cells import EXAMPLES, kept, make_data
from table import FAST, RESULTS, Table

from fedlpp_cli import audit, simulate
from fedlpp_cli.cli.settings_file import federation_of
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.audits import AuditSpec
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import (
    AggregateSpec,
    BaseQuantSpec,
    EvaluateSpec,
    QuantSpec,
    TrainSpec,
)

JOBS: Final = int(os.environ.get("JOBS", os.cpu_count() or 1))
# What each example is played with: rounds, steps a round, held-out rows that attackers are scored on.
WORLDS: Final = {"wordnet-minilm": (8, 10, 400), "demo": (6, 12, 200)}
FAST_WORLDS: Final = {"demo": (3, 6, 60)}
ATTACKS: Final = ("proxy", "average", "fine-tune", "intersect")
BASES: Final = {"public": None, "4": "nf4", "3": "nf3", "2": "nf2"}
SEED: Final = 0
COLUMNS: Final = (
    "adapter", "block", "rule", "base", "base alone", "central", "proxy", "rho: proxy", "rho: best average",
    "rho: best fine-tuned", "rho: intervals", "rho: client alone", "MB down",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One federation. `base`: "public", or the bits of a private base's copy."""

    world: str
    bits: str = "3"
    block: int = 64
    update_rule: int = 1
    base: str = "public"


def design(world: str) -> list[Cell]:
    """The cells of one world."""
    if FAST:
        return [Cell(world, bits) for bits in ("3", "ternary")] + [Cell(world, base="3")]
    cells = [Cell(world, bits) for bits in ("full", "4", "3", "2", "ternary")]
    cells += [Cell(world, bits, block) for bits, block in (("3", 16), ("3", 256), ("ternary", 256))]
    cells += [Cell(world, bits, update_rule=2) for bits in ("2", "ternary")]
    cells += [Cell(world, "3", base=base) for base in ("4", "3", "2")]
    if world == "wordnet-minilm":  # a cell takes four times as long as one of the demo
        return cells
    cells += [Cell(world, "ternary", 16), Cell(world, "3", update_rule=2)]
    return [*cells, Cell(world, "2", base="3"), Cell(world, "4", base="2"), Cell(world, "ternary", 256, 1, "3")]


def main() -> None:
    """Measure, print, write."""
    table = Table("privacy")
    worlds = FAST_WORLDS if FAST else WORLDS
    for world in worlds:
        make_data(world)
    cells = [cell for world in worlds for cell in design(world)]
    os.environ["OMP_NUM_THREADS"] = "1"
    reports: dict[Cell, dict[str, Any]] = {}
    with ProcessPoolExecutor(JOBS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for number, (cell, report) in enumerate(zip(cells, pool.map(play, cells), strict=True), 1):
            reports[cell] = report
            print(f"{number} of {len(cells)}: {cell}", file=sys.stderr, flush=True)
    for cell in cells:
        _add_rows(table, cell, reports[cell])
    pages = [_page(world, {cell: reports[cell] for cell in cells if cell.world == world}) for world in worlds]
    if not FAST:
        (RESULTS / "privacy.md").write_text("\n".join(pages), encoding="utf-8")
    print("\n" + "\n".join(pages))
    table.write("torch", "transformers", "peft", "numpy")


def play(cell: Cell) -> dict[str, Any]:
    """The audit's report of a cell as plain values: that of an earlier run, where there is one."""
    sizes = (FAST_WORLDS if FAST else WORLDS)[cell.world]
    return kept(("privacy", *sizes, *vars(cell).values()), lambda: _play(cell, *sizes))


def _play(cell: Cell, n_rounds: int, n_steps: int, n_rows: int) -> dict[str, Any]:
    """Simulate the federation, audit what was distributed."""
    settings = read_settings(EXAMPLES / cell.world / "federation.toml")
    base_format = BASES[cell.base]
    base = settings.needed_ref(None, "base")
    federation = replace(
        federation_of(settings, base=None, seed=SEED),
        private_base=base_format is not None,
        quantize=settings.resolve(QuantSpec, bits=cell.bits, block=cell.block),
        base_quantize=BaseQuantSpec() if base_format is None else BaseQuantSpec(format=base_format),
        train=settings.resolve(TrainSpec, steps=n_steps),
        aggregate=settings.resolve(AggregateSpec, update_rule=cell.update_rule),
    )
    clients = {name: settings.client_data(name) for name in settings.file.clients}
    with tempfile.TemporaryDirectory(prefix="fedlpp-bench-") as run, quiet_libraries():
        simulate(federation, clients, out=run, n_rounds=n_rounds, keep_updates=False, device="cpu")
        found = audit(
            [run],
            data=settings.needed_ref(None, "test_data"),
            base=base,
            shards={name: clients[name] for name in list(clients)[:1]},
            seen={name: range(n_rounds) for name in clients},
            spec=AuditSpec(attacks=ATTACKS, n_epochs=1 if FAST else 2),
            evaluate=settings.resolve(EvaluateSpec, batch_size=32, limit=n_rows),
            device="cpu",
        )
    return to_plain(found.report)


def _best(report: dict[str, Any], attack: str, *, alone: bool = False) -> dict[str, Any] | None:
    """The row of that attack with the largest recovery ratio; `alone`: of a client that trains without any package."""
    rows = [row for row in report["rows"] if row["attack"] == attack and row["counts"] != alone]
    return max((row for row in rows if row["rho"] is not None), key=lambda row: row["rho"], default=None)


def _name(cell: Cell) -> str:
    base = "public base" if cell.base == "public" else f"{cell.base}-bit base"
    return f"{cell.world}, {_bits(cell)}, block {cell.block}, rule {cell.update_rule}, {base}"


def _bits(cell: Cell) -> str:
    return cell.bits if cell.bits in {"ternary", "full"} else f"{cell.bits} bits"


def _add_rows(table: Table, cell: Cell, report: dict[str, Any]) -> None:
    headline = report["headline"]
    for who in ("base", "central", "proxy"):
        table.add(f"{_name(cell)}: {who}", report[who][headline], headline)
    for attack in ATTACKS:
        row = _best(report, attack)
        if row is not None:
            table.add(f"{_name(cell)}: rho, {attack}", row["rho"], "1 = all")
    alone = _best(report, "fine-tune", alone=True)
    if alone is not None:
        table.add(f"{_name(cell)}: rho, client alone", alone["rho"], "1 = all")
    table.add(f"{_name(cell)}: down, each client, all rounds", report["bytes_down"] / 1e6, "MB")


def _page(world: str, reports: dict[Cell, dict[str, Any]]) -> str:
    """A Markdown table; rho with its 95 % interval."""
    n_rounds, n_steps, n_rows = (FAST_WORLDS if FAST else WORLDS)[world]
    headline = next(iter(reports.values()))["headline"]
    lines = [
        f"**{world}**: {n_rounds} rounds of {n_steps} steps, {n_rows} held-out rows, seed {SEED}; scores are",
        f"{headline}, rho comes with its 95 % interval over the rows (`make bench-privacy`).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for cell, report in reports.items():
        scores = " | ".join(f"{report[who][headline]:.3f}" for who in ("base", "central", "proxy"))
        best = [*(_best(report, attack) for attack in ATTACKS), _best(report, "fine-tune", alone=True)]
        ratios = " | ".join(_spell(row) for row in best)
        base = cell.base if cell.base == "public" else f"{cell.base} bits"
        lines.append(
            f"| {_bits(cell)} | {cell.block} | {cell.update_rule} | {base} | {scores} | {ratios} | "
            f"{report['bytes_down'] / 1e6:.1f} |"
        )
    left_out = len(set(product(("4", "3", "2", "ternary"), (16, 64, 256), (1, 2), BASES))) - sum(
        cell.bits != "full" for cell in reports
    )
    return "\n".join([*lines, "", f"{left_out} of the 96 cells of the whole design were left out.", ""])


def _spell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    interval = row["rho_interval"]
    return f"{row['rho']:.2f}" + (f" ({interval['low']:.2f} to {interval['high']:.2f})" if interval else "")


if __name__ == "__main__":
    main()
