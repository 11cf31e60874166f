"""Rows that a package hides stay as they are: their gradients are zero, whatever made them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedlpp_cli.training.loop import OnStep, Training, Watch


def only_visible(visible: Mapping[str, Tensor]) -> Watch:
    """A watch that holds hidden rows.

    Where torch makes the gradient it is masked at once, so that clipping looks at what is left; in front of each step
    it is masked again, for gradients that are made otherwise: noise for single examples comes into every number.

    Args:
        visible: component to which of its rows are trained, bool `(out_features,)`.
    """

    @contextmanager
    def watch(training: Training) -> Iterator[OnStep]:
        parameters = training.adapted.parameters
        masks = [(parameters[name], rows.unsqueeze(1).to(parameters[name].device)) for name, rows in visible.items()]
        with ExitStack() as hooks:
            for parameter, mask in masks:
                hooks.callback(parameter.register_hook(_masked(mask)).remove)  # type: ignore[no-untyped-call]
            hooks.callback(training.optimizer.register_step_pre_hook(_before_step(masks)).remove)
            yield lambda done: None

    return watch


def _masked(mask: Tensor) -> Any:
    return lambda gradient: torch.where(mask, gradient, 0.0)


def _before_step(masks: list[tuple[nn.Parameter, Tensor]]) -> Any:
    def hide(*_: object) -> None:
        for parameter, mask in masks:
            if parameter.grad is not None:
                parameter.grad = torch.where(mask, parameter.grad, 0.0)

    return hide
