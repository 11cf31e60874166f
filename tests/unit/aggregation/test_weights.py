"""Weights of clients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.aggregation.weights import client_weights

counts = st.lists(st.integers(1, 10**9), min_size=1, max_size=20)


@given(counts, st.sampled_from(["examples", "equal"]), st.one_of(st.none(), st.integers(1, 1000)))
def test_weights_sum_to_one_and_are_positive(n_examples, weighting, cap):
    weights = client_weights(n_examples, weighting=weighting, max_examples=cap)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) > 0


def test_by_examples_with_and_without_a_cap():
    assert client_weights([10, 30], weighting="examples", max_examples=None) == [0.25, 0.75]
    assert client_weights([10, 10**9], weighting="examples", max_examples=10) == [0.5, 0.5]
    assert client_weights([10, 30], weighting="equal", max_examples=None) == [0.5, 0.5]
