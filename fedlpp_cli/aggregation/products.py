"""How far an update moves the weights of the model: the norm of the change of s B A.

An update says how A and B change, and a small change of each can be a large one of their product, or none. With p the
proxy's factors and d the update's, the change is (p_B + d_B)(p_A + d_A) - p_B p_A = d_B t_A + p_B d_A, where
t_A = p_A + d_A. Its squared Frobenius norm is a sum of traces of products of matrices `(rank, rank)`, such as
tr(d_B' d_B t_A t_A'): the product itself, of the size of the model's weight, is never made.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, module_of
from fedlpp_cli.adapters.proxy_tensors import Rounded
from fedlpp_cli.adapters.windows import read_values
from fedlpp_cli.aggregation.stack import Update, is_large
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import NotFiniteError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import ProxyHeader


def product_norms(
    updates: Sequence[Update], proxy: TensorFile[ProxyHeader], shapes: Mapping[str, Shape], *, threads: int
) -> list[float]:
    """For each update the norm of the change of `s B A`, over all modules that have factors, in float64.

    Args:
        updates: checked.
        proxy: what they were trained on.
        shapes: component to shape.
        threads: how many may run.

    Raises:
        NotFiniteError: a file has changed since it was checked.
    """
    compiled = is_large(len(updates) * sum(math.prod(shape) for shape in shapes.values()))
    modules = sorted({module_of(name) for name in shapes if name == factor_a(module_of(name))})

    def read(file: Rounded, name: str) -> Tensor:
        return torch.from_numpy(read_values(file, name, shapes[name], compiled=compiled)).double()

    def squares(module: str) -> list[float]:
        names = factor_a(module), factor_b(module)
        product = Product(*(read(proxy, name) for name in names))
        found = []
        for update in updates:
            squared = product.squared_change(*(read(update, name) for name in names))
            if not math.isfinite(squared):
                raise NotFiniteError(f"{update.path}: {module!r} has values that are not finite")
            found.append(max(0.0, squared))
        return found

    totals = [0.0] * len(updates)
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(squares, modules):
            totals = [total + squared for total, squared in zip(totals, found, strict=True)]
    scaling = proxy.header.spec.model.lora.scaling
    return [scaling * math.sqrt(total) for total in totals]


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
