"""How far an update moves the weights of the model: the norm of the change of s B A.

An update says how A and B change, and a small change of each can be a large one of their product, or none. With p the
proxy's factors and d the update's, the change is (p_B + d_B)(p_A + d_A) - p_B p_A = d_B t_A + p_B d_A, where
t_A = p_A + d_A. Its squared Frobenius norm is a sum of traces of products of matrices `(rank, rank)`, such as
tr(d_B' d_B t_A t_A'): the product itself, of the size of the model's weight, is never made.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, module_of
from fedlpp_cli.adapters.proxy_tensors import read_component, read_update
from fedlpp_cli.aggregation.stack import Update
from fedlpp_cli.artifact.tensor_file import TensorFile
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
    """
    squares = [0.0] * len(updates)
    modules = sorted({module_of(name) for name in shapes if name == factor_a(module_of(name))})
    with ThreadPoolExecutor(threads) as pool:
        for module in modules:
            name_a, name_b = factor_a(module), factor_b(module)
            a, b = read_component(proxy, name_a).double(), read_component(proxy, name_b).double()

            def square(
                update: Update, names: tuple[str, str] = (name_a, name_b), factors: tuple[Tensor, Tensor] = (a, b)
            ) -> float:
                changes = [read_update(update, name, shapes[name]).double() for name in names]
                return squared_change(*factors, *changes)

            for k, found in enumerate(pool.map(square, updates)):
                squares[k] += found
    scaling = proxy.header.spec.model.lora.scaling
    return [scaling * math.sqrt(total) for total in squares]


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
