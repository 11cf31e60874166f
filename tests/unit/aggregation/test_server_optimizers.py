"""The server optimizers, as formulas."""

import pytest
import torch

from fedlpp_cli.aggregation.server_optimizers import first_state, step
from fedlpp_cli.records.specs import AggregateSpec

MEANS = (0.2, -0.4, 0.1)


def spec_of(optimizer, **options):
    return AggregateSpec(server_optimizer=optimizer, **{"server_learning_rate": 0.5, **options})


def walk(spec, means=MEANS, theta=1.0):
    """Theta and state after each step, as numbers."""
    value, state = torch.tensor([theta], dtype=torch.float64), first_state((1,), spec)
    seen = []
    for mean in means:
        value, state = step(value, torch.tensor([mean], dtype=torch.float64), state, spec)
        seen.append((value.item(), {moment: tensor.item() for moment, tensor in state.items()}))
    return seen


def test_sgd_adds_the_mean_and_remembers_nothing():
    assert walk(spec_of("sgd")) == [(1.0 + 0.5 * 0.2, {}), (pytest.approx(0.9), {}), (pytest.approx(0.95), {})]


def test_momentum_on_a_case_worked_out_by_hand():
    seen = walk(spec_of("momentum", beta1=0.5))
    assert [state["momentum"] for _, state in seen] == pytest.approx([0.2, -0.3, -0.05])
    assert [theta for theta, _ in seen] == pytest.approx([1.1, 0.95, 0.925])


@pytest.mark.parametrize(
    ("optimizer", "seconds"),
    [
        ("adagrad", [0.01 + 0.04, 0.05 + 0.16, 0.21 + 0.01]),
        ("adam", [0.8 * 0.01 + 0.2 * 0.04, 0.8 * 0.016 + 0.2 * 0.16, 0.8 * 0.0448 + 0.2 * 0.01]),
        # below D^2, below, above
        ("yogi", [0.01 + 0.2 * 0.04, 0.018 + 0.2 * 0.16, 0.05 - 0.2 * 0.01]),
    ],
)
def test_adaptive_optimizers_on_a_case_worked_out_by_hand(optimizer, seconds):
    seen = walk(spec_of(optimizer, beta1=0.5, beta2=0.8, tau=0.1))
    firsts = [0.1, 0.05 - 0.2, -0.075 + 0.05]
    assert [state["momentum"] for _, state in seen] == pytest.approx(firsts)
    assert [state["second_moment"] for _, state in seen] == pytest.approx(seconds)
    theta = 1.0
    for (found, _), first, second in zip(seen, firsts, seconds, strict=True):
        theta += 0.5 * first / (second**0.5 + 0.1)
        assert found == pytest.approx(theta)


def test_a_state_starts_with_zeros_and_the_square_of_tau():
    assert first_state((2, 3), spec_of("sgd")) == {}
    state = first_state((2, 3), spec_of("yogi", tau=0.5))
    assert torch.equal(state["momentum"], torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(state["second_moment"], torch.full((2, 3), 0.25, dtype=torch.float64))


def test_an_adaptive_step_has_about_the_size_of_the_rate_whatever_the_size_of_the_mean():
    for size in (1.0, 10.0, 100.0):
        ((theta, _),) = walk(spec_of("adam", beta1=0.0, beta2=0.0, tau=1e-6), means=(size,))
        assert theta == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("rule", [2, 3, 4])
def test_other_update_rules_have_no_optimizer(rule):
    with pytest.raises(ValueError, match=f"server_optimizer: yogi goes with update rule 1, not {rule}"):
        spec_of("yogi", update_rule=rule, n_rounds=5)
    assert spec_of("sgd", update_rule=rule, n_rounds=5).update_rule == rule


def test_arguments_are_left_alone():
    for optimizer in ("sgd", "momentum", "adagrad", "adam", "yogi"):
        spec = spec_of(optimizer)
        theta, mean = torch.ones(3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
        state = first_state((3,), spec)
        step(theta, mean, state, spec)
        assert torch.equal(theta, torch.ones(3, dtype=torch.float64))
        assert torch.equal(mean, torch.full((3,), 0.5, dtype=torch.float64))
        assert all(torch.equal(state[moment], first_state((3,), spec)[moment]) for moment in state)
