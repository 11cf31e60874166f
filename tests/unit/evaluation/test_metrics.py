"""Scores against values worked out by hand or by the libraries people quote."""

import math

import pytest

from fedlpp_cli.evaluation.metrics import bleu, perplexity, rouge_l


def test_perplexity_is_the_exponential_and_never_overflows():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isfinite(perplexity(1e6))


def test_bleu_and_rouge_of_a_perfect_and_of_a_hopeless_text():
    text = ["the cat sat on the mat today"]
    assert bleu(text, text) == pytest.approx(100)
    assert rouge_l(text, text) == pytest.approx(100)
    assert bleu(["x y z"], text) == 0
    assert rouge_l(["x y z"], text) == 0


def test_rouge_l_on_a_case_worked_out_by_hand():
    # longest common subsequence "a c d": precision 3/3, recall 3/4
    assert rouge_l(["a c d"], ["a b c d"]) == pytest.approx(100 * 2 * 0.75 / 1.75)
