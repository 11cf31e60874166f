"""What a coalition of clients computes from its own updates: the owner's steps, one after the other.

theta_t: the owner's adapter, theta_0 where it started; p_t: the proxy; d_t: what the owner's rule makes of the updates
of round t; eta: the server's learning rate.

    update rule 1    theta_t = theta_0 + sum of eta d_j
    update rule 2    theta_t = p_t-1 + eta d_t-1

With all updates this is the owner's adapter, number by number. Who does not know theta_0 has it but for a constant;
with rule 2, and with rule 3 at eta = 1, the last round alone is enough. A part of the clients takes its own updates for
all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_modules
from fedlpp_cli.adapters.master_tensors import MOMENTS
from fedlpp_cli.aggregation.measures import Folding, StackMeasures
from fedlpp_cli.aggregation.rules import check_numbers, clip_factors, make_plan
from fedlpp_cli.aggregation.server_optimizers import State, first_state, step
from fedlpp_cli.aggregation.stack import Stack, Update, Window
from fedlpp_cli.aggregation.update_rules import next_value
from fedlpp_cli.errors import UsageError
from fedlpp_cli.leakage.averaging import Values, mean_products
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.specs import AggregateSpec

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Round:
    """What a coalition has of one round.

    `number`: of the round, from 0. `proxy`: what its clients were sent, component to value float32; not looked at with
    update rule 1. `updates`, `weights` and `spec`: as `round_step`.
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
        steps: of `round_step`, oldest first. One of a lower rank is filled up with zeros.
    """
    theta = {name: value.float() for name, value in start.items()}
    for one in steps:
        theta = {
            name: (value.double() + _padded(one[name].double(), value.shape)).float() for name, value in theta.items()
        }
    return theta


def carry(snapshots: Sequence[Values], steps: Sequence[Values]) -> list[dict[str, Tensor]]:
    """Every snapshot moved to where the newest master is, by the steps that were made since, float32.

    Each is a proxy of the newest adapter then, off by its own rounding alone where the steps are the owner's: a mean of
    them is nearer than any, and nobody needs to know where the owner started. Low and high of intervals are carried
    likewise.

    Args:
        snapshots: component to value float32, oldest first, of successive rounds.
        steps: of `round_step`; number k leads from the master of snapshot k to the next one. As many as snapshots, or
            one less.
    """
    if len(snapshots) - len(steps) not in {0, 1}:
        raise ValueError(f"{len(steps)} steps for {len(snapshots)} snapshots")
    carried = []
    since = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in snapshots[0].items()}
    for number in reversed(range(len(snapshots))):
        if number < len(steps):
            since = {name: total + _padded(steps[number][name], total.shape) for name, total in since.items()}
        carried.append({name: (snapshots[number][name].double() + total).float() for name, total in since.items()})
    return carried[::-1]


def round_step(updates: Sequence[Values], weights: Sequence[float], spec: AggregateSpec) -> dict[str, Tensor]:
    """The owner's step `eta d` in one round of update rule 1, float64, by whatever rule updates become one.

    The arithmetic is the fold's own, so that all updates in order of their sha256 give the owner's step bit for bit.

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
    if (spec.update_rule, spec.server_optimizer) != (1, "sgd"):
        raise UsageError(
            f"update rule {spec.update_rule} with server optimizer {spec.server_optimizer}: a step is no multiple of "
            "the updates"
        )
    shapes = {name: _common_shape([update[name].shape for update in updates]) for name in updates[0]}
    mean = _fold(updates, weights, spec, shapes)
    return {name: spec.server_learning_rate * value for name, value in mean.items()}


def replay_rounds(start: Values, rounds: Sequence[Round]) -> dict[str, Tensor]:
    """The adapter after all rounds, float32, with any update rule, and any server optimizer from its first step on.

    For update rule 1 without optimizer it is `replay` of the steps.

    Args:
        start: as `replay`.
        rounds: successive ones, oldest first.

    Raises:
        UsageError: fltrust, noise for clients, products.
        GateError: fewer updates than the rule needs.
        ValueError: update rule 4 in a round beyond the planned ones.
    """
    theta = {name: value.float() for name, value in start.items()}
    states: dict[str, State] = {}
    optimizer = "sgd"
    for one in rounds:
        mean = _fold(one.updates, one.weights, one.spec, {name: tuple(value.shape) for name, value in theta.items()})
        if one.spec.server_optimizer != optimizer:
            states, optimizer = {}, one.spec.server_optimizer
        for name, value in theta.items():
            if MOMENTS[one.spec.server_optimizer]:
                before = states.get(name) or first_state(tuple(value.shape), one.spec)
                after, state = step(value.double(), mean[name], before, one.spec)
                states[name] = {moment: tensor.float().double() for moment, tensor in state.items()}
            else:
                # As in the fold: the first update rule does not look at the proxy.
                proxy = value if one.spec.update_rule == 1 else one.proxy[name]
                after = next_value(value.double(), proxy.double(), mean[name], one.spec, round_number=one.number)
            theta[name] = after.float()
    return theta


def replay_products(start: Values, rounds: Sequence[Round]) -> dict[str, Tensor]:
    """The same where the owner trains B alone, and after each round splits the product anew (FedSVD).

    The split changes no product, so that with p_t's factor A of each round

        B_T A_T = B_0 A_0 + sum of eta d_t A_t

    which is this, as factors: those of all rounds side by side (`averaging.compress` makes their rank smaller). With
    all updates it is the owner's product up to what rounding took from the factors A that clients got. Other
    components are `start` plus all steps.

    Args:
        start: as `replay`.
        rounds: as `replay_rounds`; the proxies are looked at.

    Raises:
        UsageError, GateError: as `round_step`.
    """
    parts = [start]
    for one in rounds:
        made = round_step(one.updates, one.weights, one.spec)
        modules = factor_modules(start)
        steps = {name: value.float() for name, value in made.items()}
        parts.append({**steps, **{factor_a(module): one.proxy[factor_a(module)] for module in modules}})
    return mean_products(parts, (1.0,) * len(parts))


class _TensorStack(Stack):
    """Updates out of memory in place of files, with the windows, and so the sums, of those."""

    def __init__(self, updates: Sequence[Values], shapes: Mapping[str, Shape]) -> None:
        # Of an update the base class only counts, and reads in `_rows`.
        super().__init__(cast("Sequence[Update]", updates), shapes, threads=1)
        self._flat = [
            {name: _padded(update[name].float(), shape).reshape(-1).numpy() for name, shape in shapes.items()}
            for update in updates
        ]

    def _rows(self, window: Window) -> Array:
        return np.stack([flat[window.component][window.start : window.stop] for flat in self._flat])

    def norm(self) -> float:
        """Of a single update, summed as `aggregation.norms.update_norm` does."""
        squares = dict.fromkeys(self.n_values, 0.0)
        for name, found in self.run(lambda window, rows: (window.component, self.loops.sum_products(rows[0], rows[0]))):
            squares[name] += found
        return math.sqrt(sum(squares.values()))


def _fold(
    updates: Sequence[Values], weights: Sequence[float], spec: AggregateSpec, shapes: Mapping[str, Shape]
) -> dict[str, Tensor]:
    """What the rule makes of the updates, float64."""
    _check_replayed(spec)
    check_numbers(spec, len(updates))
    norms = [_TensorStack([update], shapes).norm() for update in updates]
    factors = clip_factors(spec, norms)
    stack = _TensorStack(updates, shapes)
    clipped = [norm * factor for norm, factor in zip(norms, factors, strict=True)]
    plan = make_plan(spec, weights, clipped, StackMeasures(stack, factors, norms))
    return {name: torch.from_numpy(value) for name, value in Folding(stack, factors, plan).results(shapes)}


def _check_replayed(spec: AggregateSpec) -> None:
    if spec.rule == "fltrust":
        raise UsageError("--rule fltrust is not replayed: it compares with an update that only the owner has")
    if spec.client_noise_multiplier is not None:
        raise UsageError("--client-noise-multiplier is not replayed: the noise is the owner's secret")
    if spec.combine != "factors":
        raise UsageError(f"--combine {spec.combine} is not replayed, only --combine factors is")


def _common_shape(shapes: Sequence[Sequence[int]]) -> Shape:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _padded(value: Tensor, shape: Sequence[int]) -> Tensor:
    """`value` filled up with zeros behind each of its dimensions."""
    missing = [target - size for target, size in zip(shape, value.shape, strict=True)]
    return torch.nn.functional.pad(value, [side for more in reversed(missing) for side in (0, more)])
