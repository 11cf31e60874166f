"""LA-LoRA's filter: constants stay, noise goes, rank components do not meet, and nothing but the gradient is read."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedlpp_cli.training.smoothing import KERNEL, smooth_gradients, smoothed


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1), st.floats(-100, 100, width=32))
def test_a_constant_stays(n, m, dim, value):
    torch.testing.assert_close(smoothed(torch.full((n, m), value), dim), torch.full((n, m), value))


def test_it_is_the_convolution_with_mirrored_edges():
    row = np.random.default_rng(0).standard_normal(9)
    padded = np.concatenate([row[1::-1], row, row[:-3:-1]])
    expected = np.convolve(padded, KERNEL, mode="valid")
    values = torch.from_numpy(np.stack([row, 2 * row]))
    np.testing.assert_allclose(smoothed(values, 1), np.stack([expected, 2 * expected]), atol=1e-12)
    np.testing.assert_allclose(smoothed(values.T, 0), np.stack([expected, 2 * expected]).T, atol=1e-12)


@given(st.integers(1, 3))
def test_rank_components_do_not_meet(component):
    gradient = torch.zeros(4, 8)
    gradient[component] = torch.randn(8)
    result = smoothed(gradient, 1)
    assert not result[[k for k in range(4) if k != component]].any()


def test_noise_keeps_a_bit_more_than_a_quarter_of_its_variance():
    assert sum(weight**2 for weight in KERNEL) == 35 / 128
    noise = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner = smoothed(noise, 1)[:, 2:-2]
    assert inner.var().item() == pytest.approx(35 / 128, rel=0.03)


def test_factors_are_filtered_along_their_features_and_heads_are_not():
    draws = torch.Generator().manual_seed(1)
    shapes = {"q.lora_A": (2, 6), "q.lora_B": (6, 2), "head.weight": (3, 6), "v.lora_A": (2, 6)}
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    gradients = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items() if name != "v.lora_A"}
    for name, gradient in gradients.items():
        parameters[name].grad = gradient.clone()
    smooth_gradients(parameters)
    assert torch.equal(parameters["q.lora_A"].grad, smoothed(gradients["q.lora_A"], 1))
    assert torch.equal(parameters["q.lora_B"].grad, smoothed(gradients["q.lora_B"], 0))
    assert torch.equal(parameters["head.weight"].grad, gradients["head.weight"])
    assert parameters["v.lora_A"].grad is None
