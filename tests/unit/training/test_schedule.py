"""Steps and learning rates."""

import itertools

import pytest

from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.training.schedule import learning_rate_factor, n_steps


def test_steps_are_as_given_or_as_many_as_the_epochs_take():
    assert n_steps(TrainSpec(steps=7), 1000) == 7
    assert n_steps(TrainSpec(epochs=1.0, batch_size=4), 10) == 3
    assert n_steps(TrainSpec(epochs=2.0, batch_size=4, gradient_accumulation=2), 10) == 3
    assert n_steps(TrainSpec(epochs=0.001), 10) == 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_over_the_warmup_and_then_keeps_to_its_schedule(schedule):
    spec = TrainSpec(steps=10, schedule=schedule, warmup=0.4)
    factors = [learning_rate_factor(spec, step, 10) for step in range(10)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[-1] == pytest.approx({"constant": 1.0, "linear": 1 / 6, "cosine": 0.0669873}[schedule])
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))


def test_without_warmup_the_first_step_has_the_full_rate():
    assert learning_rate_factor(TrainSpec(steps=3, schedule="linear"), 0, 3) == 1.0
