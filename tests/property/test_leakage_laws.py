"""Laws of areas, exposures and bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.leakage.canaries import exposures
from fedlpp_cli.leakage.epsilon_bound import epsilon_bound, p_value
from fedlpp_cli.leakage.membership import auc

# Few values, so that ties are common.
SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40)


def split(rows):
    scores, is_member, counts = zip(*rows, strict=True)
    return np.array(scores, float), np.array(is_member), np.array(counts)


@given(SCORES)
def test_an_area_is_of_ranks_and_turns_with_the_sign(rows):
    scores, is_member, counts = split(rows)
    area = auc(scores, is_member, counts)
    if np.isnan(area):
        assert not (counts * is_member).any() or not (counts * ~is_member).any()
        return
    assert auc(np.exp(scores), is_member, counts) == pytest.approx(area)
    assert auc(-scores, is_member, counts) == pytest.approx(1 - area)
    assert auc(np.repeat(scores, counts), np.repeat(is_member, counts)) == pytest.approx(area)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=20), st.lists(st.integers(-9, 9), max_size=40))
def test_exposures_are_bits_of_a_rank(inserted, references):
    found = exposures(np.array(inserted, float), np.array(references, float))
    ranks = (len(references) + 1) / 2**found
    assert np.allclose(ranks, np.rint(ranks))
    assert ranks.min() >= 1 - 1e-9
    assert ranks.max() <= len(references) + 1 + 1e-9


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 8), st.sampled_from([0.0, 1e-6, 1e-3]))
def test_more_right_guesses_never_refute_less(n_guesses, n_right, epsilon, delta):
    n_right = min(n_right, n_guesses)
    p = p_value(64, n_guesses, n_right, epsilon, delta)
    assert 0 <= p <= 1
    assert p_value(64, n_guesses, n_right, epsilon + 0.5, delta) >= p - 1e-9
    bound = epsilon_bound(64, n_guesses, n_right, delta)
    assert bound <= epsilon_bound(64, n_guesses, min(n_right + 1, n_guesses), delta) + 1e-5
    if bound:
        assert p_value(64, n_guesses, n_right, bound, delta) <= 0.05 + 1e-6
