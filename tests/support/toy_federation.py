"""Federations without models, whose optimum is known: what averages of proxies come to, and what coalitions do.

Run as a program it prints the tables of docs/explanation/attacks.md.
"""

import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import torch
from msgspec.structs import replace

from fedlpp_cli.aggregation.update_rules import next_value
from fedlpp_cli.leakage.averaging import mean_factors, mean_products, windows
from fedlpp_cli.leakage.closeness import closeness
from fedlpp_cli.leakage.intervals import cell, estimate_drift, intersect
from fedlpp_cli.leakage.replay import carry, replay
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor, round_tensor
from fedlpp_cli.records.specs import AggregateSpec, Bits, QuantSpec

N_CLIENTS = 5
# Of the remaining gap, in one round: far beyond a quantization cell, and as little as fine-tuning moves.
LARGE, SMALL = 0.27, 0.03
A, B = "toy.lora_A", "toy.lora_B"


@dataclass(frozen=True)
class Errors:
    """Relative errors to the optimum: of the owner's adapter, of its proxy, and of the mean of the last half of all."""

    central: float
    proxy: float
    average: float


def quadratic(
    bits: Bits, *, update_rule: Literal[1, 2, 3], n_rounds: int, progress: float, seen: float = 1.0
) -> Errors:
    """Clients with quadratic losses of their own curvatures and minima, trained to a part of the way; from zero.

    A client goes `rate_i` of its way to `minimum_i`, value by value, `progress` on average. The optimum is where
    federated averaging in full precision stays. `seen`: the share of rounds, drawn by chance, whose proxy the attacker
    has.
    """
    draw = torch.Generator().manual_seed(2)
    common, n = torch.randn(2**12, generator=draw), 2**12
    minima = [common + 0.3 * torch.randn(n, generator=draw) for _ in range(N_CLIENTS)]
    rates = [progress * (0.5 + torch.rand(n, generator=draw)) for _ in range(N_CLIENTS)]
    optimum = sum(rate * minimum for rate, minimum in zip(rates, minima, strict=True)) / sum(rates)

    def update(proxy):
        return sum(rate * (minimum - proxy) for rate, minimum in zip(rates, minima, strict=True)) / N_CLIENTS

    spec, quantize = AggregateSpec(update_rule=update_rule), QuantSpec(bits=bits, block=256)
    theta, proxies = torch.zeros(n), []
    for number in range(n_rounds + 1):
        proxies.append(theta.clone() if bits == "full" else round_tensor(theta, quantize, name="toy"))
        if number < n_rounds:
            sent = proxies[-1]
            moved = next_value(theta.double(), sent.double(), update(sent).double(), spec, round_number=number)
            theta = moved.float()
    kept = [{"toy": proxy} for proxy in proxies if float(torch.rand(1, generator=draw)) < seen]
    average = mean_factors(kept, windows(len(kept))["last half"])["toy"]
    errors = [float((found - optimum).norm() / optimum.norm()) for found in (theta, proxies[-1], average)]
    return Errors(*errors)


def bilinear(
    bits: Bits, *, update_rule: Literal[1, 2, 3], rate: float, n_rounds: int = 200, n_steps: int = 5
) -> Errors:
    """Clients that fit `B A` to matrices W_i about a common W of that rank, by gradient descent; B starts at zero.

    The optimum is the mean of the W_i. The average is one of products.
    """
    size, rank, draw = 96, 4, torch.Generator().manual_seed(4)
    common = torch.randn(size, rank, generator=draw) @ torch.randn(rank, size, generator=draw) / size**0.5
    own = [torch.randn(size, rank, generator=draw) @ torch.randn(rank, size, generator=draw) for _ in range(N_CLIENTS)]
    targets = [common + 0.1 * (each - sum(own) / N_CLIENTS) / size**0.5 for each in own]
    optimum = {A: torch.eye(size), B: common}

    def trained(values, target):
        a, b = values[A], values[B]
        for _ in range(n_steps):
            rest = b @ a - target
            a, b = a - rate * b.T @ rest, b - rate * rest @ a.T
        return {A: a, B: b}

    spec, quantize = AggregateSpec(update_rule=update_rule), QuantSpec(bits=bits, block=256)
    theta = {A: (torch.rand(rank, size, generator=draw) * 2 - 1) * (3 / size) ** 0.5, B: torch.zeros(size, rank)}
    proxies = []
    for number in range(n_rounds + 1):
        proxies.append({name: round_tensor(value, quantize, name=name) for name, value in theta.items()})
        if number < n_rounds:
            sent = proxies[-1]
            found = [trained(sent, target) for target in targets]
            theta = {
                name: next_value(
                    value.double(), sent[name].double(),
                    sum(one[name].double() for one in found) / N_CLIENTS - sent[name].double(),
                    spec, round_number=number,
                ).float()
                for name, value in theta.items()
            }  # fmt: skip
    average = mean_products(proxies, windows(len(proxies))["last half"])
    return Errors(*(closeness(found, optimum).error_product for found in (theta, proxies[-1], average)))


@dataclass(frozen=True)
class Drifting:
    """A history of an adapter that drifts, and what clients saw of it. Steps of the owner are means of the clients'."""

    masters: list[dict[str, torch.Tensor]]
    parts: list[dict[str, torch.Tensor]]
    spec: QuantSpec
    updates: list[list[torch.Tensor]]

    @property
    def newest(self) -> torch.Tensor:
        """The owner's weights now."""
        return self.masters[-1]["w"]

    @cached_property
    def proxies(self) -> list[dict[str, torch.Tensor]]:
        """What was sent, oldest first."""
        return [{"w": dequantize_tensor(parts, tuple(self.newest.shape), self.spec)} for parts in self.parts]

    def steps(self, n_members: int) -> list[dict[str, torch.Tensor]]:
        """What the first clients take for the owner's steps."""
        return [{"w": torch.stack(one[:n_members]).double().mean(0)} for one in self.updates]

    def bounds(self, n_members: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Intervals, newest first, carried along by the steps of that many members."""
        found = [cell(parts, tuple(self.newest.shape), self.spec) for parts in self.parts]
        ends = [[{"w": pair[side]} for pair in found] for side in (0, 1)]
        if n_members:
            ends = [carry(side, self.steps(n_members)) for side in ends]
        return [(low["w"], high["w"]) for low, high in zip(*ends, strict=True)][::-1]

    def error(self, found: torch.Tensor) -> float:
        """Relative to the newest weights."""
        return float((found - self.newest).norm() / self.newest.norm())

    def averaged(self, n_members: int = 0) -> float:
        """The error of the best window over what was sent, carried along by the steps of that many members."""
        snapshots = carry(self.proxies, self.steps(n_members)) if n_members else self.proxies
        means = [mean_factors(snapshots, weights)["w"] for weights in windows(len(snapshots)).values()]
        return min(self.error(found) for found in [*means, snapshots[-1]["w"]])

    def intersected(self, n_members: int = 0, share: float = 0.0) -> float:
        """The error of the middle of what intervals leave; `share` of the estimated drift widens them."""
        snapshots = carry(self.proxies, self.steps(n_members)) if n_members else self.proxies
        drift = share * estimate_drift([values["w"] for values in snapshots])
        return self.error(intersect(self.bounds(n_members), drift))


def drifting(spec: QuantSpec, *, n_rounds: int, step: float = 0.1, size: int = 2**16, n_clients: int = 10) -> Drifting:
    """Normal weights; the mean of the clients' updates is `step` of their size; half of an update's variance is common.

    `spec` is used with a seed of its own in each round, where it draws.
    """
    draw = torch.Generator().manual_seed(6)
    theta = torch.randn(size, generator=draw)
    masters, parts, updates = [], [], []
    for number in range(n_rounds):
        masters.append({"w": theta})
        seed = f"round {number}" if spec.rounding == "stochastic" else None
        parts.append(quantize_tensor(theta, replace(spec, rounding_seed=seed), name="w"))
        if number == n_rounds - 1:
            break
        common = torch.randn(size, generator=draw)
        own = [torch.randn(size, generator=draw) for _ in range(n_clients)]
        each = [common / 2**0.5 + one / 2**0.5 for one in own]
        scale = step / float(torch.stack(each).mean(0).std())
        updates.append([scale * one for one in each])
        theta = replay({"w": theta}, [{"w": torch.stack(updates[-1]).double().mean(0)}])["w"]
    return Drifting(masters, parts, spec, updates)


def _drawn(bits: Bits) -> QuantSpec:
    return QuantSpec(bits=bits, rounding="stochastic", rounding_seed="toy")


DRIFTING_SPECS = {
    "ternary": QuantSpec(bits="ternary"),
    "2 bits": QuantSpec(bits="2"),
    "3 bits": QuantSpec(bits="3"),
    "4 bits": QuantSpec(bits="4"),
    "2 bits, stochastic": _drawn("2"),
    "4 bits, stochastic": _drawn("4"),
}


@cache
def history(name: str, n_rounds: int) -> Drifting:
    """One of `DRIFTING_SPECS`, played once."""
    return drifting(DRIFTING_SPECS[name], n_rounds=n_rounds)


def _say(*cells: object) -> None:
    sys.stdout.write("| " + " | ".join(f"{one:.2g}" if isinstance(one, float) else str(one) for one in cells) + " |\n")


def _spelled(found: Errors) -> str:
    return f"{found.central:.2g} / {found.proxy:.2g} / {found.average:.2g}"


def main() -> None:
    """All tables."""
    for progress, n_rounds in ((LARGE, 60), (SMALL, 60), (SMALL, 200)):
        _say(f"quadratic, {progress:g} a round, {n_rounds} rounds", "rule 1", "rule 2")
        for bits in ("ternary", "2", "3", "4", "full"):
            found = [quadratic(bits, update_rule=rule, n_rounds=n_rounds, progress=progress) for rule in (1, 2)]
            _say(bits, *(_spelled(one) for one in found))
    _say("quadratic, 0.27 a round, 60 rounds, average of", "all seen", "a fifth seen")
    for bits in ("2", "3", "4"):
        found = [quadratic(bits, update_rule=1, n_rounds=60, progress=LARGE, seen=seen).average for seen in (1.0, 0.2)]
        _say(bits, *found)
    for rate in (0.01, 0.04):
        _say(f"bilinear, steps of {rate:g}", "rule 1", "rule 2")
        for bits in ("2", "3", "4"):
            _say(bits, *(_spelled(bilinear(bits, update_rule=rule, rate=rate)) for rule in (1, 2)))
    _say("means, 32 rounds", "last proxy", "outsider", *(f"{m} of 10" for m in (1, 5, 9, 10)), "10 of 10, 100 rounds")
    for name in DRIFTING_SPECS:
        one = history(name, 32)
        last = one.error(one.proxies[-1]["w"])
        _say(name, last, *(one.averaged(m) for m in (0, 1, 5, 9, 10)), history(name, 100).averaged(10))
    _say("intervals, 32 rounds", "newest alone", "drift 1/4", "1/2", "1", "2", *(f"{m} of 10" for m in (5, 9, 10)))
    for name in DRIFTING_SPECS:
        one = history(name, 32)
        newest = one.error(intersect(one.bounds()[:1], 0.0))
        shares = [one.intersected(0, share) for share in (0.25, 0.5, 1.0, 2.0)]
        parts = [min(one.intersected(m, 2.0**-power) for power in range(7)) for m in (5, 9)]
        _say(name, newest, *shares, *parts, one.intersected(10))
    _say("steps of 2 %, 32 rounds", "last proxy", "mean", "intervals", "stochastic: last proxy", "mean", "intervals")
    for bits in ("2", "3", "4"):
        cells = []
        for spec in (QuantSpec(bits=bits), _drawn(bits)):
            one = drifting(spec, n_rounds=32, step=0.02, size=2**15)
            best = min(one.intersected(0, share) for share in (0.25, 0.5, 1.0, 2.0))
            cells += [one.error(one.proxies[-1]["w"]), one.averaged(), best]
        _say(f"{bits} bits", *cells)


if __name__ == "__main__":
    main()
