"""Rows of a benchmark: measured, held against a goal, printed and written."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
FAST = bool(os.environ.get("FAST"))


def best_of(function: Callable[[], object], *, runs: int = 5) -> float:
    """Seconds of the fastest of several runs, after one that is not counted."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


class Table:
    """Rows `{what, value, unit, goal, met}`; a goal starts with `>=`, `<=` or `>`, or is empty."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict[str, object]] = []

    def add(self, what: str, value: float, unit: str, goal: str = "") -> None:
        """One row, printed at once."""
        bound = float(goal.lstrip("<>=")) if goal else 0.0
        is_met = {">=": value >= bound, "<=": value <= bound, ">": value > bound}
        met = is_met[goal.rstrip("-.0123456789")] if goal else None
        self.rows.append({"what": what, "value": round(value, 4), "unit": unit, "goal": goal, "met": met})
        mark = "" if met is None else "met" if met else "NOT MET"
        print(f"{what:<62} {value:>10.4g} {unit:<12} {goal:<8} {mark}", flush=True)

    def write(self, *packages: str) -> None:
        """Write `results/<name>.json`; a fast run, which says little, is written elsewhere."""
        machine = {
            "cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version(),
            **{package: version(package) for package in packages},
        }  # fmt: skip
        path = RESULTS / f"{self.name}{'.fast' if FAST else ''}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": self.rows}, indent=2) + "\n", encoding="utf-8")
        print(
            f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", file=sys.stderr
        )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
