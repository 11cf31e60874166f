"""How large products `s B A` are, and how far an update moves them, without making one.

An update says how A and B change, and a small change of each can be a large one of their product, or none. With p the
proxy's factors and d the update's, the change is (p_B + d_B)(p_A + d_A) - p_B p_A = d_B t_A + p_B d_A, where
t_A = p_A + d_A. Its squared Frobenius norm is a sum of traces of products of matrices `(rank, rank)`, such as
tr(d_B' d_B t_A t_A'): the product itself, of the size of the model's weight, is never made.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.adapters.proxy_tensors import read_component, read_update
from fedlpp_cli.aggregation.one_thread import one_thread
from fedlpp_cli.aggregation.received import Received


def product_norms(received: Sequence[Received], *, threads: int) -> list[float]:
    """For each update the norm of the change of `s B A`, over all modules that have factors, in float64.

    Args:
        received: checked.
        threads: how many may run.
    """
    squares = [0.0] * len(received)
    modules = factor_modules(received[0].shapes)
    with ThreadPoolExecutor(threads) as pool:
        for module in modules:
            started = started_factors(received, module)

            def square(
                one: Received, module: str = module, started: dict[str, tuple[Tensor, Tensor]] = started
            ) -> float:
                b, a = started[one.proxy.sha256]
                change_b, change_a = changed_factors(one, module)
                return squared_change(a, b, change_a, change_b)

            for k, found in enumerate(pool.map(square, received)):
                squares[k] += found
    return [_scaling(one) * math.sqrt(total) for one, total in zip(received, squares, strict=True)]


def adapter_norms(received: Sequence[Received], clip_factors: Sequence[float]) -> list[float]:
    """For each client the norm of `s B A` of the adapter that it trained, over all modules, in float64.

    Args:
        received: checked.
        clip_factors: what its update is multiplied with first, so that a clipped update gains no weight.
    """
    squares = [0.0] * len(received)
    with one_thread():
        for module in factor_modules(received[0].shapes):
            started = started_factors(received, module)
            for k, (one, factor) in enumerate(zip(received, clip_factors, strict=True)):
                b, a = trained_factors(one, module, factor, started)
                squares[k] += squared_product(b, a)
    return [_scaling(one) * math.sqrt(total) for one, total in zip(received, squares, strict=True)]


def started_factors(received: Sequence[Received], module: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Sha256 of each proxy among them to its B and A, float64: each is read once."""
    proxies = {one.proxy.sha256: one.proxy for one in received}
    return {
        sha256: (
            read_component(proxy, factor_b(module)).double(),
            read_component(proxy, factor_a(module)).double(),
        )
        for sha256, proxy in proxies.items()
    }


def changed_factors(one: Received, module: str) -> tuple[Tensor, Tensor]:
    """What an update says of B and A, float64."""
    b, a = (read_update(one.update, name, one.shapes[name]).double() for name in (factor_b(module), factor_a(module)))
    return b, a


def trained_factors(
    one: Received, module: str, clip_factor: float, started: dict[str, tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """B and A as the client trained them, the change multiplied with `clip_factor`; float64."""
    (b, a), (change_b, change_a) = started[one.proxy.sha256], changed_factors(one, module)
    return b + clip_factor * change_b, a + clip_factor * change_a


def squared_change(a: Tensor, b: Tensor, change_a: Tensor, change_b: Tensor) -> float:
    """Squared Frobenius norm of `(b + change_b)(a + change_a) - b a`.

    Args:
        a: float64 `(rank, in_features)`.
        b: float64 `(out_features, rank)`.
        change_a: as `a`.
        change_b: as `b`.
    """
    after = a + change_a
    total = (
        ((change_b.T @ change_b) * (after @ after.T)).sum()
        + 2 * ((change_b.T @ b) * (after @ change_a.T)).sum()
        + ((b.T @ b) * (change_a @ change_a.T)).sum()
    )
    return max(0.0, total.item())


def squared_product(b: Tensor, a: Tensor) -> float:
    """Squared Frobenius norm of `b a`; float64 `(out_features, rank)` and `(rank, in_features)`."""
    return max(0.0, ((b.T @ b) * (a @ a.T)).sum().item())


def _scaling(one: Received) -> float:
    return one.proxy.header.spec.model.lora.scaling
