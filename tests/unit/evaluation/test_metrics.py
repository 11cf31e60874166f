"""Scores against values worked out by hand or by the libraries people quote."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.evaluation.metrics import accuracy, bleu, macro_f1, perplexity, rouge_l


def test_perplexity_is_the_exponential_and_never_overflows():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isfinite(perplexity(1e6))


def test_accuracy_is_the_share_of_hits():
    assert accuracy([0, 1, 2, 1], [0, 1, 1, 1]) == 0.75


def test_macro_f1_on_a_case_worked_out_by_hand():
    # class 0: TP 1, FP 0, FN 1 -> 2/3; class 1: TP 1, FP 1, FN 0 -> 2/3; class 2 never occurs
    assert macro_f1([0, 1, 1], [0, 1, 0], 3) == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_macro_f1_is_one_for_hits_only_and_within_bounds(pairs):
    predicted, expected = zip(*pairs, strict=True)
    assert 0 <= macro_f1(predicted, expected, 4) <= 1
    assert macro_f1(expected, expected, 4) == 1.0


def test_bleu_and_rouge_of_a_perfect_and_of_a_hopeless_text():
    text = ["the cat sat on the mat today"]
    assert bleu(text, text) == pytest.approx(100)
    assert rouge_l(text, text) == pytest.approx(100)
    assert bleu(["x y z"], text) == 0
    assert rouge_l(["x y z"], text) == 0


def test_rouge_l_on_a_case_worked_out_by_hand():
    # longest common subsequence "a c d": precision 3/3, recall 3/4
    assert rouge_l(["a c d"], ["a b c d"]) == pytest.approx(100 * 2 * 0.75 / 1.75)
