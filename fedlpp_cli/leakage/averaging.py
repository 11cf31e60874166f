"""Averages of the proxies of several rounds, as somebody computes them who kept them all.

p_t: the proxy of round t; w_t: its weight, with a sum of 1. Two means are not the same:

factors    A = sum of w_t A_t, B = sum of w_t B_t        of the rank that proxies have
products   B A = sum of w_t B_t A_t                      of a rank up to the sum of theirs

Past convergence update rule 1 is a sigma-delta modulator of first order: theta hovers near thresholds, and the mean of
what it was rounded to lies at the optimum. With stochastic rounding the error of a mean of T falls as 1 / sqrt(T).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.aggregation.combine import combine_products, stack_factors
from fedlpp_cli.aggregation.threads import one_thread

Values = Mapping[str, Tensor]

_DECAY: Final = 0.9


def windows(n: int) -> dict[str, tuple[float, ...]]:
    """Name to weights of `n` snapshots, oldest first, with a sum of 1; no two are equal, and "all" is always there.

    "all"; "last half", of an odd number the larger one; "EMA 0.9", where a snapshot weighs 0.9 of the next newer one;
    "last 2", "last 4" and so on. A window with the newest snapshot alone is no mean, and is not among them if n > 1.

    Raises:
        ValueError: no snapshot.
    """
    if n < 1:
        raise ValueError(f"{n} snapshots, at least one is needed")
    decayed = [_DECAY ** (n - 1 - k) for k in range(n)]
    named = {
        "all": _last(n, n),
        "last half": _last(n, -(-n // 2)),
        "EMA 0.9": tuple(weight / sum(decayed) for weight in decayed),
        **{f"last {size}": _last(n, size) for size in (2**power for power in range(1, n.bit_length())) if size < n},
    }
    newest = _last(n, 1)
    found: dict[str, tuple[float, ...]] = {}
    for name, weights in named.items():
        if weights not in found.values() and (n == 1 or weights != newest):
            found[name] = weights
    return found


def mean_factors(snapshots: Sequence[Values], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of every component, float32; sums are float64, oldest first.

    Args:
        snapshots: component to value float32, all of the same components and shapes.
        weights: one for each, with a sum of 1.

    Raises:
        ValueError: snapshots that differ in components or shapes, or none with a weight.
    """
    used = _with_weight(snapshots, weights)
    return {name: _mean(name, used) for name in used[0][0]}


def mean_products(snapshots: Sequence[Values], weights: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of products `B A`, as factors: all of them side by side, weights in B. Other components' means.

    Exact but for the rounding of w B to float32. The rank of what comes back is the sum of the ranks of the snapshots
    that have a weight; `compress` makes it smaller. The scaling `s` stays that of the snapshots.

    Args:
        snapshots: component to value float32. Ranks may differ.
        weights: as `mean_factors`; with a sum other than 1, what comes back is a sum and no mean.

    Raises:
        ValueError: as `mean_factors`.
    """
    used = _with_weight(snapshots, weights)
    found = {}
    for module in factor_modules(used[0][0]):
        a, b = factor_a(module), factor_b(module)
        found[a] = torch.cat([values[a] for values, _ in used])
        found[b] = torch.cat([(weight * values[b].double()).float() for values, weight in used], dim=1)
    return {name: found[name] if name in found else _mean(name, used) for name in used[0][0]}


def compress(values: Values, rank: int) -> dict[str, Tensor]:
    """The best factors of that rank for each product `B A`, float32; other components as they are.

    By QR of both factors and the SVD of the small core between them (`aggregation/combine.py`): `B A`, of the size of
    the model's weight, is never made. Exact up to rounding where the product's rank is not above `rank`; what is
    missing to `rank` is zero. The scaling `s` stays, so that alpha grows with the rank (`ranks.lora_of_rank`).

    Args:
        values: component to value float32.
        rank: of the result, in all modules.
    """
    found = dict(values)
    for module in factor_modules(values):
        b, a = values[factor_b(module)].double(), values[factor_a(module)].double()
        spare = torch.zeros(rank, a.shape[1], dtype=torch.float64)
        with one_thread():
            best = combine_products(stack_factors((b, a), None, [], [], rate=1.0), "svd", spare).factors
        if best is None:
            raise AssertionError("svd gives factors")
        found[factor_b(module)], found[factor_a(module)] = (factor.float() for factor in best)
    return found


def _last(n: int, size: int) -> tuple[float, ...]:
    """Equal weights for the newest `size` of `n`."""
    return (0.0,) * (n - size) + (1 / size,) * size


def _with_weight(snapshots: Sequence[Values], weights: Sequence[float]) -> list[tuple[Values, float]]:
    used = [(values, weight) for values, weight in zip(snapshots, weights, strict=True) if weight]
    if not used:
        raise ValueError("no snapshot has a weight")
    for values, _ in used[1:]:
        if values.keys() != used[0][0].keys():
            raise ValueError(f"snapshots differ in {sorted(values.keys() ^ used[0][0].keys())[:3]}")
    return used


def _mean(name: str, used: Sequence[tuple[Values, float]]) -> Tensor:
    total = torch.zeros(used[0][0][name].shape, dtype=torch.float64)
    for values, weight in used:
        if values[name].shape != total.shape:
            raise ValueError(f"{name}: shapes {list(total.shape)} and {list(values[name].shape)} have no mean")
        total += weight * values[name].double()
    return total.float()
