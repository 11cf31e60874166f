"""Intervals of a few weights by hand, and what several proxies of one adapter leave."""

import pytest
import torch

from fedlpp_cli.leakage.intervals import cell, estimate_drift, intersect
from fedlpp_cli.quantization.tensors import quantize_tensor, round_tensor
from fedlpp_cli.records.specs import QuantSpec


def bounds_of(x, **fields):
    spec = QuantSpec(**{"bits": "ternary", "block": 4, "scale": "fp32", **fields})
    return cell(quantize_tensor(x, spec, name="x"), tuple(x.shape), spec)


def normal(n, seed=5):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def drawn(x, seed, bits="3"):
    return bounds_of(x, bits=bits, block=64, rounding="stochastic", rounding_seed=f"s{seed}")


def test_cells_of_four_weights():
    """Half of the largest is a tie, which the lower level has: at -1/2 the outermost, at 1/2 zero."""
    low, high = bounds_of(torch.tensor([2.0, -0.1, 1.0, -1.0]))
    assert low.tolist() == pytest.approx([1.0, -1.0, -1.0, -2.0], rel=1e-6)
    assert high.tolist() == pytest.approx([2.0, 1.0, 1.0, -1.0], rel=1e-6)


def test_a_single_weight_at_the_outermost_level_is_the_largest_and_two_could_both_be():
    low, high = bounds_of(torch.tensor([3.0, 0.1, 1.0, -1.0, 3.0, 0.1, 2.0, -1.0]))
    assert (low[0], high[0]) == (3.0, 3.0)
    for index in (4, 6):
        assert low[index].item() == pytest.approx(1.5, rel=1e-6)
        assert high[index].item() == 3.0


@pytest.mark.parametrize(("bits", "share"), [("ternary", 0.0), ("2", 0.01), ("3", 0.12), ("4", 0.33), ("8", 0.91)])
def test_the_more_levels_the_more_blocks_say_which_weight_is_the_largest(bits, share):
    x = normal(2**16)
    low, high = bounds_of(x, bits=bits, block=64)
    is_known = low == high
    assert torch.equal(low[is_known], x[is_known])
    assert int(is_known.sum()) / (2**16 / 64) == pytest.approx(share, abs=0.04)


def test_in_full_precision_both_ends_are_the_weight():
    x = normal(12).reshape(3, 4)
    spec = QuantSpec(bits="full")
    low, high = cell(quantize_tensor(x, spec, name="x"), (3, 4), spec)
    assert torch.equal(low, x)
    assert torch.equal(high, x)


@pytest.mark.parametrize(("bits", "share"), [("ternary", 0.9), ("2", 0.82), ("3", 0.65), ("4", 0.62)])
def test_several_stochastic_proxies_of_one_adapter_leave_narrower_intervals(bits, share):
    """In the end the two levels around a weight, and no less: a mean goes on."""
    x = normal(2**14)
    bounds = [drawn(x, seed, bits) for seed in range(8)]
    low = torch.stack([low for low, _ in bounds]).amax(0)
    high = torch.stack([high for _, high in bounds]).amin(0)
    assert ((low <= x) & (x <= high)).all()
    assert torch.equal(intersect(bounds, 0.0), ((low.double() + high.double()) / 2).float())
    one, eight = ((intersect(bounds[:n], 0.0) - x).norm() / x.norm() for n in (1, 8))
    assert eight < share * one


def test_an_older_interval_that_leaves_nothing_is_dropped_with_all_that_are_older():
    newest = (torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]))
    apart = (torch.tensor([3.0, 0.5]), torch.tensor([4.0, 2.0]))
    oldest = (torch.tensor([0.9, 0.9]), torch.tensor([1.0, 1.0]))
    assert intersect([newest, apart, oldest], 0.0).tolist() == pytest.approx([0.5, 0.95])
    assert intersect([newest, apart], 3.0).tolist() == [0.5, 0.5]
    assert intersect([newest, apart], 2.5).tolist() == [0.75, 0.5]
    with pytest.raises(ValueError, match="no interval"):
        intersect([], 0.0)


@pytest.mark.parametrize("bits", ["2", "3", "4"])
def test_drift_is_estimated_from_nearest_proxies_and_overestimated_from_drawn_ones(bits):
    """Of a walk with steps of 2 % the mean of |step| is 0.02 sqrt(2 / pi)."""
    theta, nearest, stochastic = normal(2**14), [], []
    for number in range(8):
        nearest.append(round_tensor(theta, QuantSpec(bits=bits, block=256), name="x"))
        spec = QuantSpec(bits=bits, block=256, rounding="stochastic", rounding_seed=f"s{number}")
        stochastic.append(round_tensor(theta, spec, name="x"))
        theta = theta + 0.02 * normal(2**14, seed=100 + number)
    true = 0.02 * (2 / torch.pi) ** 0.5
    assert 0.8 * true < estimate_drift(nearest) < 1.7 * true
    assert estimate_drift(stochastic) > 3 * true
    assert estimate_drift(nearest[:1]) == 0.0


def test_parts_that_no_tensor_gives_are_refused():
    x = normal(64)
    spec = QuantSpec(bits="3", block=16, scale="fp32")
    parts = quantize_tensor(x, spec, name="x")
    with pytest.raises(ValueError, match="scales for"):
        cell({**parts, "scales": parts["scales"][:2]}, (64,), spec)
    with pytest.raises(ValueError, match="bytes of codes"):
        cell(parts, (65,), spec)
    with pytest.raises(ValueError, match="not finite"):
        cell({**parts, "scales": parts["scales"] / 0}, (64,), spec)
