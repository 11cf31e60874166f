"""How large a step's gradients were, module by module, without the energy that their noise brought (AS-LoRA).

Of a factor with gradient g, of n values with noise of standard deviation sigma in each (Kim et al. 2026, arXiv
2605.05769):

    score = max(||g||^2 - n sigma^2, 0)

What is looked at has its noise already: with privacy for examples a score costs none. Without, it is a number about the
data, as the update itself. The released code also multiplies g with a fixed random matrix of its size, which changes
||g||^2 by chance and nothing on the average, and in the last rounds adds a curvature from the loss of the private
batch, which has no noise. Neither is done here.
"""

from collections.abc import Mapping
from typing import Final

from torch import nn

from fedlpp_cli.adapters.components import module_of
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.rounding import six_digits

_MAX_SCORE: Final = 1e30


def gradient_scores(parameters: Mapping[str, nn.Parameter], noise_stddev: float) -> dict[str, float]:
    """Module to score of the factor that requires a gradient, six digits; 0 where none has reached it.

    Args:
        parameters: by component, with the gradients of the step.
        noise_stddev: of the noise in each value.
    """
    scores: dict[str, float] = {}
    for name, parameter in parameters.items():
        if factor_of(name) is None or not parameter.requires_grad:
            continue
        energy = 0.0 if parameter.grad is None else parameter.grad.double().square().sum().item()
        debiased = max(0.0, energy - parameter.numel() * noise_stddev**2)
        scores[module_of(name)] = six_digits(min(debiased, _MAX_SCORE))
    return scores
