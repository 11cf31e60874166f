"""What right guesses refute."""

import math

import numpy as np
import pytest

from fedlpp_cli.leakage.epsilon_bound import epsilon_bound, p_value


def test_all_right_refutes_what_would_be_right_less_often_than_one_in_twenty():
    chance = 0.05 ** (1 / 30)
    assert epsilon_bound(60, 30, 30, 1e-9) == pytest.approx(math.log(chance / (1 - chance)), rel=1e-4)


def test_half_right_refutes_nothing():
    assert epsilon_bound(64, 32, 16, 1e-5) == 0.0
    assert epsilon_bound(64, 32, 0, 1e-5) == 0.0


def test_the_binomial_tail_by_hand():
    assert p_value(4, 3, 2, 0.0, 0.0) == pytest.approx(0.5)
    assert p_value(4, 3, 3, math.log(3), 0.0) == pytest.approx(0.75**3)


def test_a_larger_delta_refutes_less():
    bounds = [epsilon_bound(64, 32, 30, delta) for delta in (1e-9, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_mechanism_of_that_epsilon_is_refuted_at_most_once_in_twenty(epsilon):
    """Randomized response, which is as bad as its epsilon allows."""
    right = np.random.RandomState(0).binomial(64, 1 / (1 + math.exp(-epsilon)), 2000)
    refuted = np.mean([epsilon_bound(64, 64, int(n), 0.0) > epsilon for n in right])
    assert refuted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
