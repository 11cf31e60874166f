"""`make bench-methods`: all methods, without privacy for examples and with epsilon 8 and 3, at equal rounds and steps.

A cell is a federation on WordNet's glosses (`examples/wordnet-minilm/private.toml`), played from its start and scored
on held-out rows. Its size is cut to about a minute of one core, as the whole design has 13 cells a method:

- 6 rounds of 2 steps, 96 of a client's 1,171 to 2,312 rows in a step on average, where the example has 4 rounds of 4
  steps of 256: more rounds, as RoLoRA and AS-LoRA choose by rounds, and two steps, the fewest that LA-LoRA can take;
- LoRA of rank 4 on query and value of the upper three of the six layers: no backward pass through the lower ones;
- at most 32 tokens of a gloss (one in twenty is longer); the first 600 of the 1,200 held-out rows;
- one seed without noise, two at epsilon 8, three at 3, and one federation for each learning rate that is tried. Seeds
  draw adapters and heads; the noise is secret, and new each time. Data and clients are the same in all cells.

One optimizer for all: AdamW, begun anew in each round, without weight decay. The papers have SGD (FFA-LoRA, FedSVD,
AS-LoRA) and AdamW (LA-LoRA, on text). As methods that train one factor at a time move less in a step, each method has
learning rates of its own: without noise of three, with noise of four the one with the best central model in one
federation more, of another seed and at epsilon 8. Noise allows rates at which trainings without it come apart: the
gradients of single examples are cut.

The head is trained whole, by every method at every step. FedSVD and AS-LoRA keep a random head as it was drawn, on
text; the toolkit trains new heads, and with 12 classes and so few steps there would be little to see. What the head
does alone is a row of its own. AS-LoRA's warm-up has 2 rounds, the fewest possible. `fedlpp` is LoRA with both factors,
rounded as all others are; `fedavg` the same in full precision. Claims are differences within seeds, with Student's
interval over them, and where a claim is about both epsilons over the pairs of both, although those of one seed begin
alike and are not quite independent. The held-out rows are the same for all and no part of the intervals.

What a cell came to is kept in `benchmarks/work`: interrupted, it goes on (JOBS: how many cells at once).
"""

import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from kept_cells import make_data
from methods_cells import HEAD_ALONE, Cell, World, play
from scipy.stats import t as student
from table import FAST, RESULTS, Table

from fedlpp_cli.methods.table import METHODS

JOBS: Final = int(os.environ.get("JOBS", os.cpu_count() or 1))
UPPER: Final = tuple(f"layer.{n}.attention.self.{part}" for n in (3, 4, 5) for part in ("query", "value"))
WORLD: Final = (
    World("demo", "federation.toml", n_rounds=3, n_steps=2, batch_size=4, n_rows=40)
    if FAST
    else World("wordnet-minilm", "private.toml", 6, 2, 96, n_rows=600, max_length=32, lora=(("target_modules", UPPER),))
)
SCORE: Final = "likelihood of a token" if FAST else "accuracy"
# The rates that are tried without noise and with it: at which epsilon, and of which seed.
RATES: Final[Mapping[float | None, tuple[float, ...]]] = (
    {None: (5e-3,), 8.0: (5e-3,)} if FAST else {None: (5e-3, 1.5e-2, 4.5e-2), 8.0: (5e-3, 1.5e-2, 4.5e-2, 0.135)}
)
SEARCH_SEED: Final = 1000
# Epsilon to the number of seeds.
LEVELS: Final[Mapping[float | None, int]] = {None: 1, 3.0: 2} if FAST else {None: 1, 8.0: 2, 3.0: 3}
NAMES: Final = (*(method.name for method in METHODS), *(() if FAST else (HEAD_ALONE,)))
CONFIDENCE: Final = 0.95

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """`ahead` has the better central model than `behind` at all these epsilons, says `paper`."""

    ahead: str
    behind: str
    epsilons: tuple[float, ...]
    paper: str


CLAIMS: Final = (
    Claim("ffa-lora", "fedlpp", (8.0, 3.0), "FFA-LoRA beats LoRA under DP"),
    Claim("la-lora", "rolora", (3.0,), "LA-LoRA beats RoLoRA at epsilon <= 3"),
    Claim("la-lora", "ffa-lora", (3.0,), "LA-LoRA beats FFA-LoRA at epsilon <= 3"),
    Claim("as-lora", "ffa-lora", (8.0, 3.0), "AS-LoRA beats a fixed schedule: B alone"),
    Claim("as-lora", "rolora", (8.0, 3.0), "AS-LoRA beats a fixed schedule: by rounds"),
    Claim("as-lora", "la-lora", (8.0, 3.0), "AS-LoRA beats a fixed schedule: by steps"),
)


@dataclass(frozen=True)
class Difference:
    """Of pairs with one seed and epsilon: mean, standard deviation, and half the width of the interval of the mean."""

    n: int
    mean: float
    sd: float
    reach: float

    @property
    def verdict(self) -> str:
        """Of a claim that it is above zero."""
        says = "yes" if self.mean > 0 else "no"
        return says if abs(self.mean) > self.reach else f"{says}, but zero is in the interval"


def main() -> None:
    """Measure, print, write."""
    make_data(WORLD.example)
    os.environ["OMP_NUM_THREADS"] = "1"
    table = Table("methods")
    with ProcessPoolExecutor(JOBS, mp_context=multiprocessing.get_context("spawn")) as pool:
        tried = [(epsilon, rate) for epsilon, rates in RATES.items() for rate in rates if len(rates) > 1]
        searched = _play_all(
            pool, [Cell(name, rate, epsilon, SEARCH_SEED) for name in NAMES for epsilon, rate in tried]
        )
        cells = [
            Cell(name, _best(name, epsilon, searched), epsilon, seed)
            for epsilon, n_seeds in LEVELS.items()
            for seed in range(n_seeds)
            for name in NAMES
        ]
        outcomes = _play_all(pool, cells)
    for name in NAMES:
        _add_rows(table, name, searched, outcomes)
    for claim, epsilons, found in _differences(outcomes):
        table.add(f"{claim.paper}{_at(epsilons)}: ahead by", found.mean, SCORE, ">0")
    page = _page(searched, outcomes)
    if not FAST:
        (RESULTS / "methods.md").write_text(page, encoding="utf-8")
    print("\n" + page)
    table.write("torch", "transformers", "peft", "dp-accounting", "numpy")


def _play_all(pool: ProcessPoolExecutor, cells: Sequence[Cell]) -> dict[Cell, Outcome]:
    outcomes: dict[Cell, Outcome] = {}
    for number, (cell, found) in enumerate(zip(cells, pool.map(partial(play, WORLD), cells), strict=True), 1):
        outcomes[cell] = found
        said = f"central {found['central']:.4f}, proxy {found['proxy']:.4f}, {found['cpu_seconds']:.0f} s"
        print(f"{number} of {len(cells)}: {cell}: {said}", file=sys.stderr, flush=True)
    return outcomes


def _best(name: str, epsilon: float | None, searched: Mapping[Cell, Outcome]) -> float:
    """The method's rate with the best central model, without noise or with it; the smaller of two that are alike."""
    level = None if epsilon is None else max(filter(None, RATES))
    tried = {
        cell.learning_rate: found["central"]
        for cell, found in searched.items()
        if (cell.method, cell.epsilon) == (name, level)
    }
    return min(RATES[level], key=lambda rate: (-tried.get(rate, 0.0), rate))


def _values(name: str, epsilon: float | None, outcomes: Mapping[Cell, Outcome], key: str) -> list[float]:
    """By seeds; the gap is central less proxy."""
    found = [one for cell, one in outcomes.items() if (cell.method, cell.epsilon) == (name, epsilon)]
    return [one["central"] - one["proxy"] if key == "gap" else one[key] for one in found]


def _differences(outcomes: Mapping[Cell, Outcome]) -> list[tuple[Claim, tuple[float, ...], Difference]]:
    """Of each claim at each level that was played, and at all of them together where there are several."""
    found = []
    for claim in CLAIMS:
        played = tuple(epsilon for epsilon in claim.epsilons if epsilon in LEVELS)
        together = [played] if len(played) > 1 else []
        for epsilons in [*((epsilon,) for epsilon in played), *together]:
            pairs = [
                one - other
                for epsilon in epsilons
                for one, other in zip(
                    _values(claim.ahead, epsilon, outcomes, "central"),
                    _values(claim.behind, epsilon, outcomes, "central"),
                    strict=True,
                )
            ]
            found.append((claim, epsilons, _difference(pairs)))
    return found


def _difference(pairs: Sequence[float]) -> Difference:
    n, sd = len(pairs), statistics.stdev(pairs)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Difference(n, statistics.fmean(pairs), sd, reach)


def _at(epsilons: Sequence[float]) -> str:
    return ", epsilon " + " and ".join(f"{epsilon:g}" for epsilon in epsilons)


def _level(epsilon: float | None) -> str:
    return "no noise" if epsilon is None else f"epsilon {epsilon:g}"


def _add_rows(table: Table, name: str, searched: Mapping[Cell, Outcome], outcomes: Mapping[Cell, Outcome]) -> None:
    for epsilon, noise in ((None, "without noise"), (max(filter(None, RATES)), "with noise")):
        table.add(f"{name}: learning rate {noise}", _best(name, epsilon, searched), "")
    for epsilon in LEVELS:
        central = _values(name, epsilon, outcomes, "central")
        table.add(f"{name}, {_level(epsilon)}: central", statistics.fmean(central), SCORE)
        if len(central) > 1:
            table.add(f"{name}, {_level(epsilon)}: sd over {len(central)} seeds", statistics.stdev(central), SCORE)
        gaps = _values(name, epsilon, outcomes, "gap")
        table.add(f"{name}, {_level(epsilon)}: central less proxy", statistics.fmean(gaps), SCORE)
    for key, way in (("kb_down", "down"), ("kb_up", "up")):
        sizes = [one[key] for cell, one in outcomes.items() if cell.method == name]
        table.add(f"{name}: {way}, each client and round", statistics.fmean(sizes), "kB")


def _page(searched: Mapping[Cell, Outcome], outcomes: Mapping[Cell, Outcome]) -> str:
    """Markdown tables: methods, claims, and how rates were chosen."""
    seeds = ", ".join(f"{_level(epsilon)}: {n}" for epsilon, n in LEVELS.items())
    n_bad = sum("problem" in one for one in (*outcomes.values(), *searched.values()))
    lines = [
        f"**{WORLD.example}**: {WORLD.n_rounds} rounds of {WORLD.n_steps} steps, batches of {WORLD.batch_size} on",
        f"average, {WORLD.n_rows} held-out rows; scores are the {SCORE}, mean ± standard deviation over seeds",
        f"({seeds}).",
        "Gap: central less its proxy. kB: of each client in each round, headers too (`make bench-methods`).",
        "",
        "| method | " + " | ".join(f"{_level(epsilon)}: central | gap" for epsilon in LEVELS) + " | kB down | up |",
        "|---" * (3 + 2 * len(LEVELS)) + "|",
        *(_method_line(name, outcomes) for name in NAMES),
        "",
        "| claim | epsilon | seeds | ahead by | its sd | 95 % interval | here |",
        "|---" * 7 + "|",
        *(_claim_line(*one) for one in _differences(outcomes)),
    ]
    for epsilon, rates in RATES.items() if searched else ():
        lines += [
            "",
            f"Learning rates, {_level(epsilon)}: the central model of one federation more, seed {SEARCH_SEED}:",
            "",
            "| method | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
            "|---" * (1 + len(rates)) + "|",
            *(_search_line(name, epsilon, searched) for name in NAMES),
        ]
    spent = [(cell, one["epsilon"]) for cell, one in outcomes.items() if one["epsilon"] is not None]
    for epsilon in LEVELS:
        told = [value for cell, value in spent if cell.epsilon == epsilon]
        if told:
            lines += [
                "",
                f"Ledgers at epsilon {epsilon:g} end at {min(told):.4f} to {max(told):.4f}, the largest client.",
            ]
    if n_bad:
        lines += ["", f"{n_bad} federations came to no usable end and count as 0."]
    return "\n".join([*lines, ""])


def _method_line(name: str, outcomes: Mapping[Cell, Outcome]) -> str:
    fields = [name]
    for epsilon in LEVELS:
        fields += [_spell(_values(name, epsilon, outcomes, key)) for key in ("central", "gap")]
    for key in ("kb_down", "kb_up"):
        sizes = [one[key] for cell, one in outcomes.items() if cell.method == name]
        fields.append(f"{statistics.fmean(sizes):.1f}")
    return "| " + " | ".join(fields) + " |"


def _spell(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _claim_line(claim: Claim, epsilons: Sequence[float], found: Difference) -> str:
    fields = [
        claim.paper, " and ".join(f"{epsilon:g}" for epsilon in epsilons), f"{found.n}", f"{found.mean:+.3f}",
        f"{found.sd:.3f}", f"{found.mean - found.reach:+.3f} to {found.mean + found.reach:+.3f}", found.verdict,
    ]  # fmt: skip
    return "| " + " | ".join(fields) + " |"


def _search_line(name: str, epsilon: float | None, searched: Mapping[Cell, Outcome]) -> str:
    chosen = _best(name, epsilon, searched)
    found = {rate: searched[Cell(name, rate, epsilon, SEARCH_SEED)]["central"] for rate in RATES[epsilon]}
    marked = (f"**{value:.3f}**" if rate == chosen else f"{value:.3f}" for rate, value in found.items())
    return f"| {name} | " + " | ".join(marked) + " |"


if __name__ == "__main__":
    main()
