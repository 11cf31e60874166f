"""Scores from predictions: numbers in, numbers out."""

import math


def perplexity(mean_loss: float) -> float:
    """Exponential of the mean loss a token; losses above 700, which would overflow, count as 700."""
    return math.exp(min(mean_loss, 700.0))
