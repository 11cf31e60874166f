"""The low-pass filter of LA-LoRA (Liu et al., ICLR 2026, arXiv 2602.19926): gradients smoothed along features.

The kernel G = [1, 4, 6, 4, 1] / 16 runs along the features of a factor: over the columns of A `(rank, in_features)`,
over the rows of B `(out_features, rank)`. Rank components are never mixed. At the edges values are mirrored, the
outermost one included, so that a constant stays what it is. Independent noise keeps sum G^2 = 35 / 128 of its variance.

What enters is a gradient that has its noise already: the filter looks at nothing else, so that it costs no privacy. It
comes behind clipping, and behind FedProx's term, which it smooths too.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from fedlpp_cli.adapters.trained import factor_of

KERNEL: Final = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_REACH: Final = len(KERNEL) // 2
_FEATURES: Final = {"A": 1, "B": 0}


def smoothed(gradient: Tensor, dim: int) -> Tensor:
    """The gradient `(n, m)`, filtered along one dimension; a new tensor of its dtype and shape."""
    size = gradient.shape[dim]
    places = torch.from_numpy(np.pad(np.arange(size), _REACH, mode="symmetric")).to(gradient.device)
    mirrored = gradient.index_select(dim, places)
    result = torch.zeros_like(gradient)
    for offset, weight in enumerate(KERNEL):
        result.add_(mirrored.narrow(dim, offset, size), alpha=weight)
    return result


@torch.no_grad()
def smooth_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Filter the gradient of every factor that has one; what is trained whole is left as it is."""
    for name, parameter in parameters.items():
        factor = factor_of(name)
        if factor is not None and parameter.grad is not None:
            parameter.grad = smoothed(parameter.grad, _FEATURES[factor])
