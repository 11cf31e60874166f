"""What the owner does with the mean of the updates: adds it, or takes it for the gradient of an optimizer.

theta: one component of the owner's adapter; D: the pseudo-gradient, which is the (weighted) mean of the updates, so
that it points downhill; eta: the server's learning rate; m, v: the state, kept in the master. Each starts as said here.

sgd         theta += eta D                              update rule 1, as ever; no state
momentum    m = beta1 m + D                             m = 0; FedAvgM (Hsu, Qi, Brown 2019, arXiv 1909.06335)
            theta += eta m
adagrad     v = v + D^2                                 m = 0, v = tau^2; FedAdagrad, FedAdam and FedYogi as in
adam        v = beta2 v + (1 - beta2) D^2               Reddi et al. 2021, arXiv 2003.00295, algorithm 2
yogi        v = v - (1 - beta2) D^2 sign(v - D^2)
  these 3   m = beta1 m + (1 - beta1) D
            theta += eta m / (sqrt(v) + tau)

No bias is corrected, as in the paper. Flower differs: its v starts at 0; its FedAdam multiplies eta with
sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1)) in round t, from 1, its FedYogi does not; its FedAdagrad has no momentum,
which is `beta1` 0 here.

D is about the proxy and theta is not: as with update rule 1 the residual theta - p is kept, and the other rules, which
drop it, have no optimizer.
"""

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import MOMENTS, MOMENTUM, SECOND_MOMENT
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.specs import AggregateSpec

State = Mapping[str, Tensor]


def first_state(shape: Shape, spec: AggregateSpec) -> dict[str, Tensor]:
    """The state before the first step, float64: zeros, and a second moment of tau^2 everywhere."""
    return {
        moment: torch.full(shape, spec.tau**2 if moment == SECOND_MOMENT else 0.0, dtype=torch.float64)
        for moment in MOMENTS[spec.server_optimizer]
    }


def step(theta: Tensor, mean_update: Tensor, state: State, spec: AggregateSpec) -> tuple[Tensor, dict[str, Tensor]]:
    """One component of the next master, and its state; all float64, of one shape. Arguments are left as they are.

    Args:
        theta: the component.
        mean_update: D.
        state: `momentum`, `second_moment` or what of them the optimizer has; of the step before, or `first_state`.
        spec: optimizer, `server_learning_rate`, `beta1`, `beta2`, `tau`.
    """
    after = _next_state(mean_update, state, spec)
    match spec.server_optimizer:
        case "sgd":
            direction = mean_update
        case "momentum":
            direction = after[MOMENTUM]
        case "adagrad" | "adam" | "yogi":
            direction = after[MOMENTUM] / (after[SECOND_MOMENT].sqrt() + spec.tau)
        case _:
            assert_never(spec.server_optimizer)
    return theta + spec.server_learning_rate * direction, after


def _next_state(d: Tensor, state: State, spec: AggregateSpec) -> dict[str, Tensor]:
    match spec.server_optimizer:
        case "sgd":
            return {}
        case "momentum":
            return {MOMENTUM: spec.beta1 * state[MOMENTUM] + d}
        case "adagrad":
            second = state[SECOND_MOMENT] + d.square()
        case "adam":
            second = spec.beta2 * state[SECOND_MOMENT] + (1 - spec.beta2) * d.square()
        case "yogi":
            sign = (state[SECOND_MOMENT] - d.square()).sign()
            second = state[SECOND_MOMENT] - (1 - spec.beta2) * d.square() * sign
        case _:
            assert_never(spec.server_optimizer)
    return {MOMENTUM: spec.beta1 * state[MOMENTUM] + (1 - spec.beta1) * d, SECOND_MOMENT: second}
