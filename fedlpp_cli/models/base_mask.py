"""Masks on a private base: output features of its linear layers that nobody gets (FedQSN, arXiv 2508.18911).

Of the n output features of a layer the mask hides floor(p n): rows of its weight `(out_features, in_features)`, columns
where it lies `(in_features, out_features)`. They are drawn as the server's mask on the module's factor B is
(`adapters/masks.py`), from the seed and the module's name, so that a mask of equal share on the adapter hides the same
features. There is one mask for all clients and rounds, since there is one copy.

What is hidden is zero before anything is rounded: no code, scale or mean depends on it. (Masks of clients are laid over
one rounding, so that several of them are not several roundings; here there is only one.) With scaling what the copy
says of the m features that are left counts n / m times: its scales are multiplied, in float32, after rounding.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.components import factor_b
from fedlpp_cli.adapters.masks import server_rows
from fedlpp_cli.quantization.layout import Shape

Read = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMask:
    """The output features of one weight that are hidden, ascending; `axis` of `shape` is theirs."""

    shape: Shape
    axis: int
    hidden: NDArray[np.intp]

    @property
    def n_weights(self) -> int:
        """How many weights are hidden."""
        return len(self.hidden) * self.shape[1 - self.axis]

    @property
    def factor(self) -> float:
        """What the others are multiplied with, so that the mean over all masks is the weight."""
        return self.shape[self.axis] / (self.shape[self.axis] - len(self.hidden))

    def over(self, read: Read) -> Read:
        """What `read` gives, bit patterns by position, with zeros for what is hidden."""
        width = self.shape[1]
        is_hidden = np.zeros(width, np.bool_)
        if self.axis == 1:
            is_hidden[self.hidden] = True

        def masked(start: int, stop: int) -> NDArray[Any]:
            values = read(start, stop)
            if self.axis == 1:
                values[is_hidden[np.arange(start, stop) % width]] = 0
                return values
            first, last = np.searchsorted(self.hidden, (start // width, -(-stop // width)))
            for row in self.hidden[first:last].tolist():
                values[max(row * width - start, 0) : (row + 1) * width - start] = 0
            return values

        return masked


def draw_feature_mask(
    name: str, shape: Shape, axis: int, share: float, *, seed: int, modules: Collection[str]
) -> FeatureMask | None:
    """The mask of one weight; None where it hides nothing.

    Args:
        name: of the tensor, as in the files.
        shape: two dimensions.
        axis: of `shape` that has the output features.
        share: of them that is hidden.
        seed: the master's, the owner's secret.
        modules: those that have an adapter, as the model names them.
    """
    hidden = server_rows(factor_b(_module_of(name, modules)), shape[axis], share, seed=seed)
    return FeatureMask(shape, axis, np.sort(hidden)) if len(hidden) else None


def _module_of(tensor: str, modules: Collection[str]) -> str:
    """The module as the model names it. Files may have one name more in front, or one less ("transformer.")."""
    module = tensor.rpartition(".")[0]
    if module in modules:
        return module
    known = {name.partition(".")[2]: name for name in modules}
    within = module.partition(".")[2]
    return known.get(module) or (within if within in modules else module)
