"""Scores of models on examples, how sure they are, and what an attacker recovers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.evaluation.bootstrap import interval_of, resamples
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Scored, confusion, goodness, macro_f1, mean_scores


def classified(predicted, expected, n_classes=3):
    n = len(expected)
    return Scored(np.ones(n), np.ones(n, np.int64), np.array(predicted), np.array(expected), n_classes)


def modelled(losses, n_targets=None):
    losses = np.array(losses, float)
    return Scored(losses, np.ones(len(losses), np.int64) if n_targets is None else np.array(n_targets))


def test_accuracy_and_macro_f1_on_a_case_worked_out_by_hand():
    # class 0: TP 1, FP 0, FN 1 -> 2/3; class 1: TP 1, FP 1, FN 0 -> 2/3; class 2 never occurs
    found = mean_scores(classified([0, 1, 1], [0, 1, 0]))
    assert found == pytest.approx({"loss": 1.0, "accuracy": 2 / 3, "macro_f1": 2 / 3})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_macro_f1_is_one_for_hits_only_and_within_bounds(pairs):
    predicted, expected = zip(*pairs, strict=True)
    assert 0 <= macro_f1(confusion(classified(predicted, expected, 4))) <= 1
    assert macro_f1(confusion(classified(expected, expected, 4))) == 1.0


def test_a_loss_is_the_mean_over_targets_not_over_examples():
    found = mean_scores(modelled([6.0, 1.0], n_targets=[3, 1]))
    assert found["loss"] == 7 / 4
    assert found["perplexity"] == pytest.approx(np.exp(7 / 4))


def test_counting_an_example_twice_is_having_it_twice():
    once, twice = classified([0, 1, 2], [0, 2, 2]), classified([0, 1, 1, 2], [0, 2, 2, 2])
    assert mean_scores(once, np.array([1, 2, 1])) == mean_scores(twice)


def test_more_is_better_in_both_tasks():
    assert goodness(classified([0, 1], [0, 1])) > goodness(classified([0, 0], [0, 1]))
    assert goodness(modelled([1.0])) > goodness(modelled([2.0]))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.RandomState(0).normal(3, 1, 400)
    found = interval_of(lambda counts: float(values @ counts) / 400, 400)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_draws_are_the_same_each_time_and_have_the_size_of_the_data():
    first, second = list(resamples(7, 20)), list(resamples(7, 20))
    assert all((a == b).all() and a.sum() == 7 for a, b in zip(first, second, strict=True))


def test_one_example_says_nothing_about_others():
    assert interval_of(lambda counts: 1.0, 1) is None


def test_recovery_is_0_at_the_base_and_1_at_the_central_model():
    rng = np.random.RandomState(1)
    base = modelled(rng.uniform(2, 3, 50))
    central = modelled(base.losses - rng.uniform(0.5, 1, 50))
    half = modelled((base.losses + central.losses) / 2)
    assert recovery(base, base=base, central=central).rho == 0
    assert recovery(central, base=base, central=central).rho == 1
    found = recovery(half, base=base, central=central)
    assert found.rho == pytest.approx(0.5)
    assert found.interval.low == pytest.approx(0.5)  # paired: half of the gain is half of it on every draw


def test_an_attacker_can_be_ahead_of_the_owner():
    base, central, better = modelled([2.0, 2.0, 2.1]), modelled([1.0, 1.0, 1.1]), modelled([0.5, 0.5, 0.6])
    assert recovery(better, base=base, central=central).rho == pytest.approx(1.5)


@pytest.mark.parametrize("gain", [0.0, -0.3, 0.01], ids=["none", "a loss", "within noise"])
def test_no_ratio_where_central_is_not_told_from_base(gain):
    noise = np.random.RandomState(2).normal(0, 1, 100)
    base = modelled(np.full(100, 9.0))
    central = modelled(9.0 - gain + noise - noise.mean())
    found = recovery(central, base=base, central=central)
    assert found.rho is None
    assert found.interval is None
    assert found.gain == pytest.approx(gain, abs=1e-9)
