"""What must be true of a trained adapter before anything is written. A failed training never becomes an update."""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.errors import ArtifactError, GateError
from fedlpp_cli.training.gradients import StepGradient
from fedlpp_cli.training.held import Held

# A training has run away when, for so many steps in a row, its loss is so many times above both its first and guessing.
_RUNAWAY_STEPS: Final = 5
_RUNAWAY_FACTOR: Final = 10.0
_WORSE_FACTOR: Final = 1.5
_SMALLER_STEPS: Final = "a lower --learning-rate when the owner packs, or --compute fp32"


class LossGate:
    """Stops a training as soon as it is certain that nothing comes of it. `guessing`: the loss of knowing nothing."""

    def __init__(self, guessing: float) -> None:
        self._guessing = guessing
        self._first = math.inf
        self._n_high = 0

    def check(self, made: StepGradient, step: int) -> None:
        """Look at what a step, from 1, is about to move the adapter by.

        Raises:
            GateError: naming the step.
        """
        if not math.isfinite(made.loss):
            raise GateError(f"the loss is {made.loss} at step {step}; nothing was written", hint=_SMALLER_STEPS)
        if not math.isfinite(made.norm):
            raise GateError(
                f"the gradient's norm is {made.norm} at step {step}; nothing was written", hint=_SMALLER_STEPS
            )
        # A first step of DP-SGD may have no example, and then has a loss of 0.
        if step == 1 or self._first == 0.0:
            self._first = made.loss
        is_high = made.loss > _RUNAWAY_FACTOR * max(self._first, self._guessing)
        self._n_high = self._n_high + 1 if is_high else 0
        if self._n_high == _RUNAWAY_STEPS:
            raise GateError(
                f"the loss has run away: {made.loss:.4g} at step {step}, {self._first:.4g} at step 1, "
                f"{self._guessing:.4g} for guessing; nothing was written",
                hint=_SMALLER_STEPS,
            )

    def held(self) -> Held:
        """The first loss, and how many steps in a row were high."""
        return Held(values={"loss_first": self._first, "n_high": self._n_high})

    def put_back(self, held: Held) -> None:
        """As `Resumable`."""
        first, n_high = held.values.get("loss_first"), held.values.get("n_high")
        if not isinstance(first, float) or type(n_high) is not int or len(held.values) != 2 or held.tensors:
            raise ArtifactError(
                f"a checkpoint whose gate holds {dict(held.values)!r:.80}, loss_first and n_high are needed"
            )
        self._first, self._n_high = first, n_high


def check_moved(before: Sequence[Tensor], after: Sequence[Tensor], gradient_norm: float) -> None:
    """Stop after a first step that did nothing: the next hours would do nothing either.

    One tensor has to move, not all: at the start B is zero, and with it the gradient of A.

    Args:
        before: trainable tensors in front of the step.
        after: the same after it.
        gradient_norm: weight decay moves tensors that no gradient reaches.

    Raises:
        GateError: no gradient, or no tensor that moved.
    """
    if gradient_norm == 0.0:
        raise GateError(
            "the gradient is zero at step 1, so there is nothing to train; nothing was written",
            hint="a proxy whose factors are all zero, or rows that the model knows already",
        )
    if all(torch.equal(one, other) for one, other in zip(before, after, strict=True)):
        raise GateError("step 1 changed no weight; nothing was written", hint="is the learning rate too small?")


def loss_warning(loss_first: float, loss_last: float, guessing: float) -> str | None:
    """What to tell of a training that ended, and maybe should not be sent; None where all is well."""
    if loss_last <= _WORSE_FACTOR * max(loss_first, guessing):
        return None
    return f"the loss rose from {loss_first:.4f} to {loss_last:.4f}; guessing has {guessing:.4f}"


def check_trained(delta: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that is not finite, or where it was: a residual that is added later would hide that.

    Args:
        delta: trained adapter minus proxy, by component.

    Raises:
        GateError: naming the component.
    """
    for name, tensor in delta.items():
        if not bool(torch.isfinite(tensor).all()):
            raise GateError(f"{name}: not finite after training; nothing was written")
    if not any(bool(tensor.any()) for tensor in delta.values()):
        raise GateError("training changed no weight; nothing was written", hint="is the learning rate too small?")


def check_untrained(delta: Mapping[str, Tensor], trained: Container[str]) -> None:
    """Refuse an adapter in which something has moved that the round does not train; not one bit may have.

    Args:
        delta: trained adapter minus proxy, by component.
        trained: the components that may have moved.

    Raises:
        GateError: naming the component.
    """
    for name, tensor in delta.items():
        if name not in trained and bool((tensor != 0).any()):
            raise GateError(f"{name}: it moved in a round that does not train it; nothing was written")


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
