"""What stops a training, and what only warns."""

import math

import pytest
import torch

from fedlpp_cli.errors import GateError
from fedlpp_cli.training.gates import LossGate, check_moved, check_trained, loss_warning
from fedlpp_cli.training.gradients import StepGradient
from fedlpp_cli.training.held import Held

GUESSING = math.log(64)


def watch(losses, gate=None, *, first_step=1):
    gate = gate or LossGate(GUESSING)
    for step, loss in enumerate(losses, start=first_step):
        gate.check(StepGradient(loss, 1.0), step)
    return gate


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_refused_at_once(loss):
    with pytest.raises(GateError, match=f"the loss is {loss} at step 2; nothing was written"):
        watch([1.0, loss])


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_refused_before_it_moves_anything(norm):
    with pytest.raises(GateError, match=f"the gradient's norm is {norm} at step 3"):
        LossGate(GUESSING).check(StepGradient(1.0, norm), 3)


def test_a_loss_has_run_away_after_five_steps_far_above_its_first_and_guessing():
    high = 10 * GUESSING + 0.1
    watch([1.0, *[high] * 4, 1.0, *[high] * 4, 40.0])
    with pytest.raises(GateError, match=r"run away: 41.69 at step 6, 1 at step 1, 4.159 for guessing"):
        watch([1.0, *[high] * 5])


def test_a_high_loss_that_was_high_from_the_start_is_no_reason():
    watch([50.0, *[499.0] * 20])
    with pytest.raises(GateError, match="run away"):
        watch([50.0, *[501.0] * 5])


def test_a_first_step_without_examples_is_not_the_first_loss():
    watch([0.0, 50.0, *[499.0] * 20])
    with pytest.raises(GateError, match="run away"):
        watch([0.0, 50.0, *[501.0] * 5])


def test_the_gate_counts_on_after_it_is_put_back():
    gate, again = watch([1.0, *[100.0] * 3]), LossGate(GUESSING)
    again.put_back(gate.held())
    watch([100.0], again, first_step=5)
    with pytest.raises(GateError, match="at step 6, 1 at step 1"):
        watch([100.0], again, first_step=6)
    assert again.held() == Held(values={"loss_first": 1.0, "n_high": 5})


def test_one_tensor_that_moved_is_enough_and_none_is_not():
    a, b = torch.ones(3), torch.zeros(2)
    check_moved([a, b], [a, b + 1e-30], 1.0)
    with pytest.raises(GateError, match="step 1 changed no weight"):
        check_moved([a, b], [a.clone(), b.clone()], 1.0)


def test_what_weight_decay_moves_without_any_gradient_is_no_training():
    with pytest.raises(GateError, match="the gradient is zero at step 1"):
        check_moved([torch.ones(3)], [torch.full((3,), 0.99)], 0.0)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"a": torch.ones(2), "b": torch.tensor([math.nan, 0.0])}, "b: not finite after training"),
        ({"a": torch.tensor([math.inf])}, "a: not finite after training"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "training changed no weight"),
    ],
)
def test_what_a_training_must_not_end_in(delta, message):
    with pytest.raises(GateError, match=message):
        check_trained(delta)


def test_a_change_of_one_number_is_a_change():
    check_trained({"a": torch.zeros(2), "b": torch.tensor([0.0, 1e-30])})


def test_a_loss_that_ends_worse_than_it_began_and_than_guessing_is_worth_a_warning():
    assert loss_warning(2.0, 1.0, GUESSING) is None
    assert loss_warning(2.0, 6.0, GUESSING) is None
    assert loss_warning(8.0, 11.0, GUESSING) is None
    assert loss_warning(2.0, 6.5, GUESSING) == "the loss rose from 2.0000 to 6.5000; guessing has 4.1589"
