"""What holds of every server optimizer, whatever the updates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.aggregation.server_optimizers import first_state, step
from fedlpp_cli.aggregation.update_rules import next_value
from fedlpp_cli.records.specs import AggregateSpec

SIZE = 5
numbers = st.floats(-1e3, 1e3)
vectors = st.lists(numbers, min_size=SIZE, max_size=SIZE).map(lambda values: torch.tensor(values, dtype=torch.float64))
rounds = st.lists(vectors, min_size=1, max_size=6)
rates = st.floats(1e-4, 2.0)
betas = st.floats(0.0, 0.999)
ADAPTIVE = ("adagrad", "adam", "yogi")


def walk(theta, means, spec):
    """Theta after each step, and the last state, which goes through float32 as it does in a master."""
    state, seen = first_state((SIZE,), spec), []
    for mean in means:
        theta, state = step(theta, mean, state, spec)
        state = {moment: tensor.float().double() for moment, tensor in state.items()}
        seen.append(theta)
    return seen, state


@given(vectors, rounds, rates)
def test_momentum_without_memory_is_sgd_bit_for_bit(theta, means, rate):
    spec = AggregateSpec(server_optimizer="momentum", beta1=0.0, server_learning_rate=rate)
    seen, _ = walk(theta, means, spec)
    for mean, found in zip(means, seen, strict=True):
        theta = next_value(theta, theta, mean, AggregateSpec(server_learning_rate=rate), round_number=0)
        assert torch.equal(found, theta)


@given(vectors, rounds, rates)
def test_sgd_is_update_rule_1_bit_for_bit(theta, means, rate):
    spec = AggregateSpec(server_learning_rate=rate)
    assert torch.equal(step(theta, means[0], {}, spec)[0], next_value(theta, theta, means[0], spec, round_number=0))


@given(vectors, st.integers(1, 6), st.sampled_from(ADAPTIVE), betas, betas, st.floats(1e-30, 1.0))
def test_zeros_move_nothing_and_stay_finite(theta, n_rounds, optimizer, beta1, beta2, tau):
    spec = AggregateSpec(server_optimizer=optimizer, beta1=beta1, beta2=beta2, tau=tau)
    seen, state = walk(theta, [torch.zeros(SIZE, dtype=torch.float64)] * n_rounds, spec)
    assert torch.equal(seen[-1], theta)
    assert state["second_moment"].isfinite().all()


adaptive = st.builds(
    AggregateSpec,
    server_optimizer=st.sampled_from(ADAPTIVE),
    server_learning_rate=rates,
    beta1=betas,
    beta2=betas,
    tau=st.floats(1e-12, 1.0),
)


@given(vectors, rounds, adaptive)
def test_adaptive_steps_are_finite_and_second_moments_are_not_negative(theta, means, spec):
    seen, state = walk(theta, means, spec)
    assert all(found.isfinite().all() for found in seen)
    assert (state["second_moment"] >= 0).all()


@given(rounds, rates)
def test_adagrad_never_moves_further_than_the_rate(means, rate):
    """Without momentum, |D| <= sqrt(v): each step is below eta."""
    spec = AggregateSpec(server_optimizer="adagrad", beta1=0.0, server_learning_rate=rate)
    seen, _ = walk(torch.zeros(SIZE, dtype=torch.float64), means, spec)
    before = [torch.zeros(SIZE, dtype=torch.float64), *seen]
    assert all(float((b - a).abs().max()) <= rate * (1 + 1e-6) for a, b in zip(before, seen, strict=False))


@pytest.mark.parametrize("optimizer", ADAPTIVE)
@given(vectors, rounds)
def test_an_update_and_its_mirror_image_move_to_mirror_images(optimizer, theta, means):
    spec = AggregateSpec(server_optimizer=optimizer, server_learning_rate=0.1)
    seen, _ = walk(theta, means, spec)
    mirrored, _ = walk(-theta, [-mean for mean in means], spec)
    assert torch.equal(seen[-1], -mirrored[-1])
