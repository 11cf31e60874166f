"""How large products `s B A` are, and how far an update moves them, without making one.

An update says how A and B change, and a small change of each can be a large one of their product, or none. With p the
proxy's factors and d the update's, the change is (p_B + d_B)(p_A + d_A) - p_B p_A = d_B t_A + p_B d_A, where
t_A = p_A + d_A. Its squared Frobenius norm is a sum of traces of products of matrices `(rank, rank)`, such as
tr(d_B' d_B t_A t_A'): the product itself, of the size of the model's weight, is never made.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.adapters.drawn import draw, is_drawn
from fedlpp_cli.adapters.masks import row_factors
from fedlpp_cli.adapters.windows import read_values
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.aggregation.stack import is_large
from fedlpp_cli.aggregation.threads import one_thread
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import NotFiniteError
from fedlpp_cli.records.headers import ProxyHeader


def product_norms(received: Sequence[Received], *, threads: int) -> list[float]:
    """For each update the norm of the change of `s B A`, over all modules that have factors, in float64.

    Args:
        received: checked.
        threads: how many may run.

    Raises:
        NotFiniteError: a file has changed since it was checked.
    """
    compiled = _is_large(received)

    def squares(module: str) -> list[float]:
        products = {
            sha256: Product(a, b) for sha256, (b, a) in started_factors(received, module, compiled=compiled).items()
        }
        found = []
        for one in received:
            change_b, change_a = changed_factors(one, module, compiled=compiled)
            squared = products[one.proxy.sha256].squared_change(change_a, change_b)
            if not math.isfinite(squared):
                raise NotFiniteError(f"{one.update.path}: {module!r} has values that are not finite")
            found.append(max(0.0, squared))
        return found

    totals = [0.0] * len(received)
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(squares, factor_modules(received[0].started_shapes)):
            totals = [total + squared for total, squared in zip(totals, found, strict=True)]
    return [_scaling(one) * math.sqrt(total) for one, total in zip(received, totals, strict=True)]


def adapter_norms(received: Sequence[Received], clip_factors: Sequence[float]) -> list[float]:
    """For each client the norm of `s B A` of the adapter that it trained, over all modules, in float64.

    Args:
        received: checked.
        clip_factors: what its update is multiplied with first, so that a clipped update gains no weight.
    """
    squares, compiled = [0.0] * len(received), _is_large(received)
    with one_thread():
        for module in factor_modules(received[0].started_shapes):
            started = started_factors(received, module, compiled=compiled)
            for k, (one, factor) in enumerate(zip(received, clip_factors, strict=True)):
                b, a = trained_factors(one, module, factor, started, compiled=compiled)
                squares[k] += squared_product(b, a)
    return [_scaling(one) * math.sqrt(total) for one, total in zip(received, squares, strict=True)]


def started_factors(
    received: Sequence[Received], module: str, *, compiled: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sha256 of each proxy among them to its B and A, float64: each is read once. `compiled`: as `read_values`."""
    proxies = {one.proxy.sha256: one.proxy for one in received}
    return {
        sha256: (
            _factor(proxy, factor_b(module), compiled=compiled),
            _factor(proxy, factor_a(module), compiled=compiled),
        )
        for sha256, proxy in proxies.items()
    }


def changed_factors(one: Received, module: str, *, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """What an update says of B and A, float64; zeros of one that the round does not train."""
    b, a = (
        torch.from_numpy(read_values(one.update, name, one.shapes[name], compiled=compiled)).double()
        if name in one.shapes
        else torch.zeros(one.started_shapes[name], dtype=torch.float64)
        for name in (factor_b(module), factor_a(module))
    )
    return b, a


def trained_factors(
    one: Received, module: str, clip_factor: float, started: dict[str, tuple[Tensor, Tensor]], *, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """B and A as the client trained them, the change multiplied with `clip_factor`; float64."""
    (b, a), (change_b, change_a) = started[one.proxy.sha256], changed_factors(one, module, compiled=compiled)
    return b + clip_factor * change_b, a + clip_factor * change_a


def _factor(proxy: TensorFile[ProxyHeader], name: str, *, compiled: bool) -> Tensor:
    spec = proxy.header.spec
    if is_drawn(spec, name):
        return draw(spec, name).double()
    value = torch.from_numpy(read_values(proxy, name, spec.shapes[name], compiled=compiled)).double()
    factors = row_factors(proxy, name)
    return value if factors is None else value * torch.from_numpy(factors).unsqueeze(1)


def _is_large(received: Sequence[Received]) -> bool:
    return is_large(sum(math.prod(shape) for one in received for shape in one.shapes.values()))


def squared_product(b: Tensor, a: Tensor) -> float:
    """Squared Frobenius norm of `b a`; float64 `(out_features, rank)` and `(rank, in_features)`."""
    return max(0.0, ((b.T @ b) * (a @ a.T)).sum().item())


def _scaling(one: Received) -> float:
    return one.proxy.header.spec.model.lora.scaling


class Product:
    """`b a`, and how far it moves when both change."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        """`a`: float64 `(rank, in_features)`. `b`: float64 `(out_features, rank)`."""
        self._a, self._b = a, b
        self._aa, self._bb = a @ a.T, b.T @ b

    def squared_change(self, change_a: Tensor, change_b: Tensor) -> float:
        """Squared Frobenius norm of `(b + change_b)(a + change_a) - b a`; rounding can take it a little below zero.

        With d a change, t_A t_A' = a a' + a d' + d a' + d d' and t_A d' = a d' + d d', so that each update costs four
        products.

        Args:
            change_a: as `a`.
            change_b: as `b`.
        """
        crossed, changed = self._a @ change_a.T, change_a @ change_a.T
        after = self._aa + crossed + crossed.T + changed
        total = (
            ((change_b.T @ change_b) * after).sum()
            + 2 * ((change_b.T @ self._b) * (crossed + changed)).sum()
            + (self._bb * changed).sum()
        )
        return float(total)
