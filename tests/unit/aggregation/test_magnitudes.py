"""The median of absolute values, out of counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.aggregation.magnitudes import Magnitudes

sizes = st.floats(1e-30, 1e30) | st.floats(-1e30, -1e-30)


def median_of(*parts):
    magnitudes = Magnitudes()
    for part in parts:
        magnitudes.add(torch.tensor(part, dtype=torch.float64))
    return magnitudes.median()


@given(st.lists(sizes, min_size=1, max_size=50))
def test_it_is_within_a_bin_and_two_digits_of_the_lower_median(values):
    exact = sorted(abs(value) for value in values)[(len(values) - 1) // 2]
    assert median_of(values) == pytest.approx(exact, rel=0.01 + 0.05)


@given(st.lists(sizes, min_size=2, max_size=50), st.integers(1, 49))
def test_parts_and_their_order_do_not_matter(values, cut):
    cut = min(cut, len(values) - 1)
    assert median_of(values) == median_of(values[cut:], values[:cut]) == median_of(values[::-1])


def test_zeros_count_and_nothing_is_none():
    assert median_of([0.0, 0.0, -0.0, 5.0]) == 0.0
    assert median_of([]) is None
    assert median_of() is None
