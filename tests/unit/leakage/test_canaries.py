"""Rows of random words, and how well they are remembered."""

import numpy as np
import pytest
from support.tiny import LABELS, make_tokenizer

from fedlpp_cli.leakage.canaries import canary_test, exposures, make_canaries, toss
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.kinds import task_for


@pytest.mark.parametrize(
    ("spec", "columns"),
    [
        (TaskSpec(max_length=32), {}),
        (TaskSpec(max_length=8), {"text": "body"}),
        (TaskSpec(kind="seq-cls", max_length=32, labels=LABELS), {"label": "kind"}),
    ],
)
def test_canaries_are_examples_of_the_task_drawn_by_name(spec, columns):
    tokenizer = make_tokenizer()
    task = task_for(spec, tokenizer, columns)
    made = [make_canaries(task, tokenizer, columns, 20, name) for name in ("a", "a", "b")]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) == 20
    if spec.labels:
        assert {example.labels for example in made[0]} == {0, 1, 2}
    else:
        assert all(len(example.input_ids) >= 5 for example in made[0])


def test_coins_are_fair_and_have_names():
    assert toss(64, "a").tolist() == toss(64, "a").tolist() != toss(64, "b").tolist()
    assert 400 < toss(1000, "a").sum() < 600


def test_exposure_is_the_bits_by_which_the_rank_is_better_than_the_last():
    references = np.arange(1023.0)
    assert exposures(np.array([2000.0, -1.0, 1022.5, 1021.5]), references).tolist() == [10.0, 0.0, 10.0, 9.0]


def test_what_was_not_trained_on_has_an_exposure_of_one_over_log_two():
    draws = np.random.RandomState(0)
    assert exposures(draws.rand(4000), draws.rand(4000)).mean() == pytest.approx(1 / np.log(2), abs=0.1)


def canaries_of(shift, **options):
    draws, is_in = np.random.RandomState(1), toss(64, "x")
    scores = draws.normal(0, 1, 64) + shift * is_in
    settings = {"epsilon": None, "delta": 1e-5, "noise": None, **options}
    return canary_test(scores, is_in, draws.normal(0, 1, 500), **settings)


def test_a_training_that_remembers_and_one_that_does_not():
    good, bad = canaries_of(0.0), canaries_of(4.0)
    assert good.n_canaries == bad.n_canaries
    assert good.n_references == 500 + 64 - good.n_canaries
    assert good.exposure_mean < 2.2
    assert bad.exposure_mean > 5
    assert good.auc < 0.62
    assert bad.auc > 0.95
    assert (bad.n_guesses, bad.n_right) == (32, 32)
    assert bad.epsilon_bound == pytest.approx(2.3, abs=0.1)
    assert good.epsilon_bound < 0.5
