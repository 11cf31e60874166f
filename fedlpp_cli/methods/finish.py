"""How a round ends: the folded factors of each module, as a method makes them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, module_of
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.methods.method import Finish
from fedlpp_cli.quantization.tensors import check_finite


def finished(values: Iterator[tuple[str, Tensor]], finish: Finish | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the next master, the factors of each module as `finish` makes them; float32.

    Args:
        values: name and value, as `Fold.values`; at most the factors of one module at a time are held back.
        finish: of the method; None leaves everything as it is.

    Raises:
        NotFiniteError: naming the factor.
    """
    if finish is None:
        yield from values
        return
    waiting: dict[str, Tensor] = {}
    for name, value in values:
        if factor_of(name) is None:
            yield name, value
            continue
        waiting[name] = value
        names = factor_b(module_of(name)), factor_a(module_of(name))
        if all(one in waiting for one in names):
            made = finish(*(waiting.pop(one).double() for one in names))
            for one, factor in zip(names, made, strict=True):
                rounded = factor.to(torch.float32)
                check_finite(rounded, name=one)
                yield one, rounded
