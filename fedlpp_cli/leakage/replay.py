"""What a coalition of clients computes from its own updates: the owner's steps, one after the other.

theta_0: where the owner started; d_t: what the rule makes of the updates of round t; eta: the server's learning rate.

    update rule 1    theta_t = theta_0 + sum of eta d_j

With all updates of all rounds this is the owner's adapter, number by number. Who does not know theta_0 has all but a
constant; rules 2 to 4 forget theta_0 and start again from the proxy, which every client has. A part of the clients takes
its own updates for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedlpp_cli.leakage.averaging import Values
from fedlpp_cli.records.specs import AggregateSpec


@dataclass(frozen=True, slots=True)
class Round:
    """What a coalition has of one round.

    `number`: of the round, from 0. `proxy`: what its clients were sent, component to value float32. `updates` and
    `weights`: as `round_step`. `spec`: how the owner aggregates.
    """

    number: int
    proxy: Values
    updates: Sequence[Values]
    weights: Sequence[float]
    spec: AggregateSpec


def replay(start: Values, steps: Sequence[Values]) -> dict[str, Tensor]:
    """`start` plus all steps, float32: each sum in float64, rounded after each step as the owner's masters are.

    Args:
        start: the adapter before the first step, or a guess of it, component to value float32.
        steps: of `round_step`, oldest first.
    """
    raise NotImplementedError


def round_step(updates: Sequence[Values], weights: Sequence[float], spec: AggregateSpec) -> dict[str, Tensor]:
    """The owner's step `eta d` in one round of update rule 1, float64, whatever the rule is that joins updates.

    The arithmetic is the fold's own, so that all updates in order of their sha256 give the owner's step bit for bit
    (with clipping, up to the last bits of a norm).

    Args:
        updates: component to value float32, of each client that the coalition has, in order of their sha256. Those of a
            lower rank are filled up with zeros.
        weights: one for each, with a sum of 1 (`aggregation.weights.client_weights` of these clients alone).
        spec: how the owner aggregates.

    Raises:
        UsageError: what cannot be replayed from updates: update rules 2 to 4 and server optimizers (`replay_rounds`
            has them), fltrust, noise for clients, products.
        GateError: fewer updates than the rule needs.
    """
    raise NotImplementedError


def replay_rounds(start: Values, rounds: Sequence[Round]) -> dict[str, Tensor]:
    """The adapter after all rounds, float32, with any update rule and server optimizer, its state from the first round on.

    For update rule 1 without optimizer it is `replay` of the steps.

    Args:
        start: as `replay`.
        rounds: successive ones, oldest first.

    Raises:
        UsageError: fltrust, noise for clients, products.
        GateError: fewer updates than the rule needs.
    """
    raise NotImplementedError
