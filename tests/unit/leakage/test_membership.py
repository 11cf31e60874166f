"""Rows that were trained on against rows that were not."""

import numpy as np
import pytest

from fedlpp_cli.evaluation.scored import Scored
from fedlpp_cli.leakage.membership import auc, loss_drops, membership, true_positive_rate

SCORES = np.array([0.9, 0.4, 0.4, 0.1, 0.8])
MEMBERS = np.array([True, True, False, False, False])


def defined(scores, is_member):
    pairs = [(a, b) for a in scores[is_member] for b in scores[~is_member]]
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def test_the_area_is_the_chance_that_a_member_scores_higher():
    assert auc(SCORES, MEMBERS) == defined(SCORES, MEMBERS) == 4.5 / 6


def test_counts_are_repetitions():
    counts = np.array([2, 1, 3, 0, 1])
    assert auc(SCORES, MEMBERS, counts) == pytest.approx(defined(np.repeat(SCORES, counts), np.repeat(MEMBERS, counts)))


def test_without_one_of_both_there_is_no_area():
    assert np.isnan(auc(SCORES, np.ones(5, bool)))


def test_one_false_alarm_in_a_hundred():
    others, members = np.arange(200.0), np.array([100.0, 197.5, 198.5, 300.0])
    scores, is_member = np.concatenate([members, others]), np.arange(204) < 4
    # Two of 200 others may be above: the threshold is the third, 197.
    assert true_positive_rate(scores, is_member) == 0.75
    few = np.concatenate([members, [199.0]])
    assert true_positive_rate(few, np.arange(5) < 4) == 0.25


def test_a_drop_is_per_target():
    before = Scored(np.array([4.0, 9.0]), np.array([2, 3]))
    after = Scored(np.array([2.0, 9.0]), np.array([2, 3]))
    assert loss_drops(before, after).tolist() == [1.0, 0.0]


def test_the_interval_holds_the_area_and_shrinks_with_rows():
    draws = np.random.RandomState(0)
    few = membership(draws.normal(1, 1, 30), draws.normal(0, 1, 30), of_update=True)
    many = membership(draws.normal(1, 1, 600), draws.normal(0, 1, 600), of_update=True)
    for found in (few, many):
        assert found.auc_interval.low < found.auc < found.auc_interval.high
    assert many.auc_interval.high - many.auc_interval.low < few.auc_interval.high - few.auc_interval.low
    assert (many.of, many.n_members, many.n_others) == ("update", 600, 600)


def test_one_row_has_no_interval():
    assert membership(np.ones(1), np.zeros(30), of_update=True).auc_interval is None
