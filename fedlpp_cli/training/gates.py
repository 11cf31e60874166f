"""What must be true of a trained adapter before anything is written. A failed training never becomes an update."""

import math
from collections.abc import Mapping

from torch import Tensor

from fedlpp_cli.errors import GateError


def check_loss(loss: float, step: int) -> None:
    """Stop at the first loss that is no number.

    Raises:
        GateError: naming the step.
    """
    if not math.isfinite(loss):
        raise GateError(
            f"the loss is {loss} at step {step}; nothing was written",
            hint="a lower --learning-rate, or --compute dense-fp32",
        )


def check_update(update: Mapping[str, Tensor], max_update_norm: float | None) -> float:
    """L2 norm of the whole update, float64 inside.

    Args:
        update: trained adapter minus proxy, by component.
        max_update_norm: the owner's limit, None for none.

    Raises:
        GateError: a value that is not finite, weights that did not change, or a norm above the limit.
    """
    squares = 0.0
    for name, tensor in update.items():
        square = tensor.double().square().sum().item()
        if not math.isfinite(square):
            raise GateError(f"{name}: not finite after training; nothing was written")
        squares += square
    norm = math.sqrt(squares)
    if norm == 0.0:
        raise GateError("training changed no weight; nothing was written", hint="is the learning rate too small?")
    if max_update_norm is not None and norm > max_update_norm:
        raise GateError(
            f"the update's norm is {norm:.4g}, the package allows {max_update_norm:.4g}; nothing was written",
            hint="a lower --learning-rate or fewer --steps, or ask the owner for a larger max_update_norm",
        )
    return norm
