"""A client's part of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, option II): drift is taken out of its steps.

Each step goes along g - c_i + c: g is the gradient, c_i the client's control variate, which is the mean gradient of the
steps of its last round, and c the owner's, which is the mean of all clients' c_i. After K steps from x to y with
learning rates of sum S, c_i becomes c_i - c + (x - y) / S, the mean of this round's gradients; S is K eta where all
rates are one eta, as in the paper. The change, dc_i = -c - (y - x) / S, needs nothing but the owner's c and the update.
So it is not sent: the owner computes it too (`aggregation/control_variates.py`), and the two never differ.

Both take for y - x what the owner reads out of the update, and for c what lies in the proxy. What rounding did to an
update makes c_i that much less of a mean gradient, until the next round replaces it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedlpp_cli.quantization.tensors import check_finite

Variates = Mapping[str, Tensor]


class ControlVariates:
    """What is added to each gradient: `c - c_i`, constant over a round.

    It is added after the gradient was clipped. So `max_grad_norm` limits g, and with it c_i, which stays a mean of what
    was limited; clipping the sum would make c_i whatever part of c - c_i was cut off.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], corrections: Variates) -> None:
        """`corrections`: float32 by component, of all parameters or of none."""
        self._corrected = [(parameters[name], value.to(parameters[name].device)) for name, value in corrections.items()]

    @torch.no_grad()
    def correct_gradients(self) -> None:
        """Add `c - c_i` to each gradient; without corrections nothing is touched."""
        for parameter, correction in self._corrected:
            if parameter.grad is None:  # nothing of the loss depends on it: its gradient is zero
                parameter.grad = correction.clone()
            else:
                parameter.grad.add_(correction)


def corrections(own: Variates | None, shared: Variates | None) -> dict[str, Tensor]:
    """`c - c_i`, float32 by component, rounded once; nothing where both are zero.

    Args:
        own: c_i; None for zeros.
        shared: c; None for zeros.
    """
    names = own or shared or {}
    return {name: (_of(shared, name) - _of(own, name)).float() for name in names}


def own_after(own: Variates | None, shared: Variates | None, sent: Variates, rate_sum: float) -> dict[str, Tensor]:
    """The client's control variates after a round, `c_i - c - sent / S`, float32 by component.

    Args:
        own: c_i; None for zeros.
        shared: c; None for zeros.
        sent: y - x as the owner reads it out of the update.
        rate_sum: S, the sum of the learning rates of all steps.

    Raises:
        NotFiniteError: learning rates so small that a quotient is beyond float32.
    """
    after = {
        name: (_of(own, name) - _of(shared, name) - value.double() / rate_sum).float() for name, value in sent.items()
    }
    for name, value in after.items():
        check_finite(value, name=f"control variate of {name}")
    return after


def _of(variates: Variates | None, name: str) -> Tensor:
    """Float64; zeros of no shape where there is none."""
    return torch.zeros((), dtype=torch.float64) if variates is None else variates[name].double()
