"""How the owner moves its full-precision adapter, given what clients did from the proxy.

theta: the owner's adapter; p: the proxy that clients started at; d: the weighted mean of their updates, so p + d is
the mean of their adapters; eta: the server's learning rate; t: the round, from 0; R: the planned number of rounds.

1. theta + eta d            the residual theta - p is kept; FedLPP's own (arXiv 2406.10976), and the default
2. p + eta d                the residual is dropped
3. theta + eta (p + d - theta)
4. as 3 with eta (R - t) / R

Rules 2 and 3 are one at eta = 1. With full-precision proxies (p = theta) rules 1, 2 and 3 are FedAvg. Rule 1 gathers
steps smaller than a quantization cell, where 2 to 4 stall; past convergence it circles the optimum, so stop on
held-out loss.
"""

from typing import assert_never

from torch import Tensor

from fedlpp_cli.records.specs import AggregateSpec


def next_value(theta: Tensor, proxy: Tensor, mean_update: Tensor, spec: AggregateSpec, *, round_number: int) -> Tensor:
    """One component of the next master; all float64, of one shape.

    Raises:
        ValueError: update rule 4 in a round beyond the planned ones.
    """
    rate = spec.server_learning_rate
    match spec.update_rule:
        case 1:
            return theta + rate * mean_update
        case 2:
            return proxy + rate * mean_update
        case 3:
            return theta + rate * (proxy + mean_update - theta)
        case 4:
            return theta + rate * decay(spec, round_number=round_number) * (proxy + mean_update - theta)
        case _:
            assert_never(spec.update_rule)


def decay(spec: AggregateSpec, *, round_number: int) -> float:
    """What rule 4 multiplies the server's learning rate with: (R - t) / R.

    Raises:
        ValueError: no planned number of rounds, or a round that is not one of them.
    """
    if spec.n_rounds is None or round_number >= spec.n_rounds:
        raise ValueError(f"round {round_number} of {spec.n_rounds} planned")
    return (spec.n_rounds - round_number) / spec.n_rounds
