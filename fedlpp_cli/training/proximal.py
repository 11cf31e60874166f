"""FedProx (Li et al. 2020, arXiv 1812.06127): a client's adapter is held near the one that it was sent."""

from collections.abc import Sequence

import torch
from torch import nn


class ProximalTerm:
    """The gradient of `mu / 2 ||theta - p||^2` over all trainable tensors; p is what they were when this was made.

    It is added to that of the loss before anything is clipped: what is clipped is the gradient of FedProx's objective,
    as where the term is part of the loss. With AdamW it is scaled like any gradient, unlike weight decay.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], mu: float) -> None:
        self._mu = mu
        self._anchored = [(parameter, parameter.detach().clone()) for parameter in parameters if mu]

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add `mu (theta - p)` to each gradient; with mu 0 nothing is touched."""
        for parameter, anchor in self._anchored:
            if parameter.grad is not None:  # without one it does not move, and is where it was
                parameter.grad.add_(parameter - anchor, alpha=self._mu)
