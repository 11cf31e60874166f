"""Scores against values worked out by hand."""

import math

import pytest

from fedlpp_cli.evaluation.metrics import perplexity


def test_perplexity_is_the_exponential_and_never_overflows():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isfinite(perplexity(1e6))
