"""A part of `make bench-quantize`: bytes and accuracy of the WordNet example, if `make small` has run there."""

import json
import subprocess
import sys
from pathlib import Path

from table import Table

RUNS = Path(__file__).parents[1] / "artifacts" / "runs"
EXAMPLE = Path(__file__).parents[1] / "examples" / "wordnet-minilm"
LAST = "round-0016/master.safetensors"


def add_wordnet(table: Table) -> None:
    """Rows about rounding both ways against fp32 FedAvg-LoRA."""
    small, full = RUNS / "wordnet-small", RUNS / "wordnet-fedavg"
    if not (small / LAST).is_file() or not (full / LAST).is_file():
        print(
            "WordNet: left out; `make small` in examples/wordnet-minilm trains what is compared, a quarter of an hour"
        )
        return
    found = subprocess.run(
        [
            sys.executable, "-m", "fedlpp_cli", "evaluate", "-f", "federation.toml", f"small={small / LAST}",
            f"full={full / LAST}", "--json",
        ],
        cwd=EXAMPLE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    accuracy = {row["model"]: row["scores"]["accuracy"] for row in json.loads(found.stdout)["data"]["rows"]}
    ours = next(value for name, value in accuracy.items() if name.startswith("small") and "proxy" not in name)
    theirs = next(value for name, value in accuracy.items() if name.startswith("full"))
    table.add("WordNet: bytes a client and round, fp32 FedAvg-LoRA", _bytes(full) / 1e3, "kB")
    table.add("WordNet: bytes a client and round, fedlpp", _bytes(small) / 1e3, "kB")
    table.add("WordNet: fedlpp's bytes against FedAvg's", _bytes(small) / _bytes(full), "x", "<=0.1")
    table.add("WordNet: points of accuracy below FedAvg", round(100 * (theirs - ours), 3), "points", "<=1")


def _bytes(run: Path) -> float:
    """Down and up, of one client in one round."""
    package, updates = run / "round-0001" / "package", run / "round-0001" / "updates"
    down = sum(path.stat().st_size for path in package.iterdir())
    up = [path.stat().st_size for path in updates.iterdir()]
    return down + sum(up) / len(up)
