"""Attacks on what was distributed that cost one score each: T0, T1, T3, T4 and T6 of the audit."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import read_adapter, read_component
from fedlpp_cli.adapters.withheld import of_one_rank
from fedlpp_cli.leakage.averaging import Values, compress, mean_factors, mean_products, windows
from fedlpp_cli.leakage.intervals import estimate_drift, intersect, read_bounds
from fedlpp_cli.leakage.knowledge import Idea, packages
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.audits import Attack, AttackRow, AuditSpec
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.steps.audit_history import History, Sent
from fedlpp_cli.steps.audit_judge import Judge, Tried
from fedlpp_cli.tasks.task import Example

# Ranks of a mean of products beyond this many times the federation's are cut off: the last ones are noise of rounding.
MAX_RANKS: Final = 8
# How far a weight may have moved in a round, in typical moves.
_DRIFTS: Final = (1.0, 3.0)
_DRAWS: Final = (4, 16)

_MADE_ANEW: Final = "the method makes both factors anew each round: their means over rounds mean nothing"

Rows = Iterator[AttackRow]


@dataclass(frozen=True, slots=True)
class Case:
    """What attackers have to work with.

    `snapshots`: by round, what the proxy says, of the master's rank. `shards`: client to rows. `recipe`: of the
    federation. `start`: the adapter before any training.
    """

    history: History
    snapshots: Sequence[Values]
    shards: Mapping[str, Sequence[Example]]
    recipe: TrainSpec
    start: Values
    spec: AuditSpec

    def idea(self, attack: Attack, variant: str, knows: str, *, can_count: bool = True) -> Idea:
        """An idea that counts if its kind does, and it is not `can_count` False for a reason of its own."""
        return Idea(attack, variant, knows, can_count and attack in self.spec.counted)

    @property
    def newest(self) -> Values:
        """What the newest proxy says."""
        return self.snapshots[-1]


def values_of(sent: Sent, rank: int) -> dict[str, Tensor]:
    """What a proxy says of each component, float32, filled up to that rank."""
    return of_one_rank(read_adapter(sent.proxy), rank)


def take_proxy(case: Case, judge: Judge) -> tuple[Tried, AttackRow]:
    """T0: the newest proxy as it is."""
    return judge.at_once(case.idea("proxy", "newest", packages(1)), case.newest)


def average(case: Case, judge: Judge, tried: list[tuple[str, int, Tried]]) -> Rows:
    """T1: means over rounds, every window, of factors and of products.

    Args:
        case: what there is.
        judge: scores it.
        tried: takes each average: its variant, how many rounds it is of, and what it got.
    """
    n = len(case.snapshots)
    if n == 1:
        yield case.idea("average", "all rounds", packages(1)).skipped("one proxy was distributed: there is no mean")
        return
    rank = judge.stage.lora.rank
    if case.history.makes_anew:
        yield case.idea("average", "all rounds, factors", packages(n)).skipped(_MADE_ANEW)
    for kind in ("products",) if case.history.makes_anew else ("factors", "products"):
        for name, weights in windows(n).items():
            n_used = sum(weight > 0 for weight in weights)
            idea = case.idea("average", f"{name}, {kind}", packages(n_used))
            if kind == "factors":
                values = mean_factors(case.snapshots, weights)
            else:
                # One rank for all windows, so that the model is opened once.
                values = compress(mean_products(case.snapshots, weights), rank * min(n, MAX_RANKS))
            found, row = judge.at_once(idea, values)
            tried.append((idea.variant, n_used, found))
            yield row


def pool_of_one(case: Case, judge: Judge) -> Rows:
    """T3 for one client: the best mean of the rounds that the best informed client was in."""
    n, seen = len(case.snapshots), case.history.seen
    name, rounds = max(seen.items(), key=lambda one: (len(one[1]), one[0]), default=("", frozenset[int]()))
    idea = case.idea("pool", "one client", "the packages that one client was sent")
    if not seen:
        yield idea.skipped("who took part is not known: no updates, and no --seen")
        return
    known = sorted({*rounds, n - 1})
    if len(known) == n:
        yield idea.skipped(f"{name} was in every round: one client knows what all know")
        return
    snapshots, rank = [case.snapshots[number] for number in known], judge.stage.lora.rank
    if case.history.makes_anew:
        kind, size = "products", rank * min(len(known), MAX_RANKS)
        ways = {way: compress(mean_products(snapshots, weights), size) for way, weights in windows(len(known)).items()}
    else:
        kind, ways = "factors", {way: mean_factors(snapshots, weights) for way, weights in windows(len(known)).items()}
    tried = {way: judge.attempt(values, f"pool, {way}") for way, values in ways.items()}
    best = max(tried, key=lambda way: tried[way].goodness)
    variant = f"{name} alone, {best} of {len(known)} rounds, {kind}"
    yield judge.row(case.idea("pool", variant, f"{packages(len(known))} that {name} was in"), tried[best])


def narrow_down(case: Case, judge: Judge) -> Rows:
    """T4: the middle of what the codes of all rounds together leave of each weight."""
    sent = _of_one_shape(case.history)
    idea = case.idea("intersect", "all rounds", packages(len(sent)))
    if not case.history.quantize.is_rounded:
        yield idea.skipped("the newest proxy is in full precision: nothing is left to narrow down")
        return
    shapes, rank = sent[0].proxy.header.spec.shapes, judge.stage.lora.rank
    for factor in _DRIFTS if len(sent) > 1 else (1.0,):
        values = {}
        for name in shapes:
            bounds = [read_bounds(one.proxy, name) for one in sent]
            drift = estimate_drift([read_component(one.proxy, name) for one in reversed(sent)])
            values[name] = intersect(bounds, factor * drift)
        variant = f"all rounds, drift x {factor:g}" if len(sent) > 1 else "the newest round"
        yield judge.at_once(dataclasses.replace(idea, variant=variant), of_one_rank(values, rank))[1]


def round_again(case: Case, judge: Judge) -> Rows:
    """T6: what more stochastic roundings of the newest master would tell; the release ledger refuses them."""
    quantize = case.history.quantize
    if quantize.rounding == "nearest":
        idea = case.idea("rerounding", "more draws", "the newest master, rounded several times")
        yield idea.skipped("rounding is nearest: a second one tells nothing")
        return
    for n in _DRAWS:
        idea = case.idea("rerounding", f"{n} draws", f"{n} stochastic roundings of the newest master")
        specs = [replace(quantize, rounding_seed=f"audit-{draw}") for draw in range(n)]
        draws = [
            {
                name: value if name in judge.public else round_tensor(value, spec, name=name)
                for name, value in judge.factors.items()
            }
            for spec in specs
        ]
        yield judge.at_once(idea, mean_factors(draws, (1 / n,) * n))[1]


def _of_one_shape(history: History) -> list[Sent]:
    """The newest rounds in a row whose proxies have one rank and the same factors, the newest first."""
    newest_first = [history.sent[number] for number in sorted(history.sent, reverse=True)]
    if history.makes_anew:
        return newest_first[:1]
    shapes = newest_first[0].proxy.header.spec.shapes
    odd = next((k for k, sent in enumerate(newest_first) if sent.proxy.header.spec.shapes != shapes), None)
    return newest_first[:odd]
