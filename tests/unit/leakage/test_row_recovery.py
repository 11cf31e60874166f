"""Rebuilt rows, held against the rows."""

import numpy as np
import pytest

from fedlpp_cli.leakage.row_recovery import (
    candidates_of,
    drawn_shares,
    own_tokens,
    shapes_of,
    share_found,
    share_in_order,
)
from fedlpp_cli.leakage.token_recovery import Nearness
from fedlpp_cli.tasks.task import IGNORED, Example


def test_a_shape_keeps_special_tokens_and_what_is_not_learnt():
    row = Example((1, 7, 8, 9, 2), (IGNORED, IGNORED, 8, 9, 2), was_cut=False)
    (shape,) = shapes_of([row], {1, 2})
    assert shape.free == (1, 2, 3)
    assert own_tokens([shape]) == [[7, 8, 9]]
    filled = shape.filled([4, 5, 6])
    assert filled.input_ids == (1, 4, 5, 6, 2)
    assert filled.labels == (IGNORED, IGNORED, 5, 6, 2)
    assert shape.filled([7, 8, 9]) == row


def test_a_class_stays():
    (shape,) = shapes_of([Example((1, 7), 2, was_cut=False)], {1})
    assert shape.filled([5]).labels == 2


@pytest.mark.parametrize(
    ("rebuilt", "found", "in_order"),
    [
        ([[5, 6, 7, 5]], 1.0, 1.0),
        ([[7, 6, 5, 5]], 1.0, 0.5),
        ([[5, 5, 5, 5]], 0.5, 0.5),
        ([[9, 5, 6, 7]], 0.75, 0.75),
        ([[1, 2, 3, 4]], 0.0, 0.0),
    ],
)
def test_what_is_found_and_what_is_in_order(rebuilt, found, in_order):
    assert share_found([[5, 6, 7, 5]], rebuilt) == found
    assert share_in_order([[5, 6, 7, 5]], rebuilt) == in_order


def test_rows_may_come_out_in_any_order():
    assert share_in_order([[1, 2], [3, 4]], [[3, 4], [1, 2]]) == 1.0
    assert share_in_order([[1, 2], [3, 4]], [[3, 2], [1, 4]]) == 0.5


def test_random_rows_of_the_right_tokens_are_better_than_others():
    good = drawn_shares([[1, 2, 3, 4]], [1, 2, 3, 4], np.random.RandomState(0))
    assert drawn_shares([[1, 2, 3, 4]], [5, 6, 7, 8], np.random.RandomState(0)) == (0.0, 0.0)
    assert good[0] >= good[1] >= 0.5


def test_an_exact_span_needs_no_other_witness():
    tokens = list(range(100, 400))
    scores = -np.arange(300.0)
    exact = candidates_of(tokens, Nearness(scores, 3, is_exact=True), -scores, 5, has_spans=True)
    assert exact == tokens[:10]
    both = candidates_of(tokens, Nearness(scores, 3, is_exact=False), -scores, 5, has_spans=True)
    assert (len(both), both[:4]) == (64, [100, 399, 101, 398])
    assert candidates_of(tokens, Nearness(scores, 3, is_exact=True), -scores, 5, has_spans=False) == both
    assert candidates_of(tokens, None, None, 5, has_spans=True) == tokens
