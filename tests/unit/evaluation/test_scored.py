"""Scores of models on examples, how sure they are, and what an attacker recovers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.evaluation.bootstrap import interval_of, intervals_of, resamples
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Scored, class_scores, confusion, goodness, macro_f1, mean_scores


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


def test_a_sample_has_the_headline_score_of_its_scores():
    counts = np.array([0, 3, 1])
    for scored in (classified([0, 1, 2], [0, 2, 2]), modelled([6.0, 1.0, 2.0], n_targets=[3, 1, 2])):
        for drawn in (None, counts):
            value = mean_scores(scored, drawn)[scored.headline]
            assert goodness(scored, drawn) == pytest.approx(-value if scored.headline == "loss" else value)


def test_scores_of_classes_on_a_case_worked_out_by_hand():
    # classes 0 and 1: 2 examples and 1 hit each, predicted once and twice; class 2: only predicted; 3: never seen
    first, second, third, fourth = class_scores(confusion(classified([0, 1, 1, 2], [0, 1, 0, 1], 4)))
    assert first == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "n": 2})
    assert second == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "n": 2})
    assert third == {"precision": 0.0, "f1": 0.0, "n": 0}
    assert fourth == {"n": 0}


def test_the_mean_f1_of_classes_is_macro_f1():
    draw = np.random.RandomState(3)
    table = confusion(classified(draw.randint(0, 4, 60), draw.randint(0, 4, 60), 4))
    assert np.mean([one["f1"] for one in class_scores(table)]) == pytest.approx(macro_f1(table))


def test_many_intervals_at_once_are_those_of_each_alone():
    values = np.random.RandomState(4).normal(0, 1, (2, 50))
    both = intervals_of(lambda counts: {"a": float(values[0] @ counts), "b": float(values[1] @ counts)}, 50)
    assert both == {
        "a": interval_of(lambda counts: float(values[0] @ counts), 50),
        "b": interval_of(lambda counts: float(values[1] @ counts), 50),
    }


def test_a_number_that_is_often_undefined_has_no_interval():
    found = intervals_of(lambda counts: {"rare": 1 / counts[0] if counts[0] else np.nan, "sure": 1.0}, 50)
    assert set(found) == {"sure"}


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
