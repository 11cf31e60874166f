"""How many steps, which learning rate: numbers only, no model."""

import math

from fedlpp_cli.records.specs import TrainSpec


def n_steps(spec: TrainSpec, n_examples: int) -> int:
    """Optimizer steps of one round: as given, or as many as `epochs` passes over the data take."""
    if spec.steps is not None:
        return spec.steps
    assert spec.epochs is not None  # noqa: S101  # TrainSpec sees to it
    per_step = spec.batch_size * spec.gradient_accumulation
    return max(1, math.ceil(spec.epochs * n_examples / per_step))


def learning_rate_sum(spec: TrainSpec, total: int) -> float:
    """The learning rates of `total` steps, added up."""
    return math.fsum(spec.learning_rate * learning_rate_factor(spec, step, total) for step in range(total))


def learning_rate_factor(spec: TrainSpec, step: int, total: int) -> float:
    """What the learning rate is multiplied with at `step` of `total`, from 0.

    `warmup` is the share of steps over which it rises; it then stays, or falls to 0 linearly or as half a cosine.
    """
    n_warm = math.ceil(spec.warmup * total)
    if step < n_warm:
        return (step + 1) / n_warm
    done = (step - n_warm) / max(1, total - n_warm)
    match spec.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
