"""Laws of the intervals that a proxy leaves its weights: always true, never wider than the quantizer makes them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.leakage.intervals import cell, intersect
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.codec import MIN_COMPILED
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor
from fedlpp_cli.records.specs import QuantSpec

BITS = ["ternary", "2", "3", "4", "5", "6", "8"]
SCALES = ["fp32", "fp16", "double"]
ROUNDINGS = [
    ("nearest", "nearest"),
    ("nearest", "up"),
    ("nearest", "fit"),
    ("stochastic", "nearest"),
    ("stochastic", "up"),
]
# Ordinary weights, ties, and what is below fp16 or hardly a float at all.
FLOATS = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 0.75]),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.floats(-(2.0**-123), 2.0**-123, width=32),
)
VALUES = st.lists(FLOATS, min_size=1, max_size=60)


@st.composite
def specs(draw, bits=BITS, scales=SCALES, roundings=ROUNDINGS):
    rounding, scale_rounding = draw(st.sampled_from(roundings))
    return QuantSpec(
        bits=draw(st.sampled_from(bits)),
        block=draw(st.integers(1, 40)),
        scale=draw(st.sampled_from(scales)),
        rounding=rounding,
        rounding_seed=draw(st.sampled_from(["a", "b"])) if rounding == "stochastic" else None,
        scale_rounding=scale_rounding,
    )


def bounds_of(x, spec):
    return cell(quantize_tensor(x, spec, name="x"), tuple(x.shape), spec)


def assert_within(x, bounds):
    low, high = bounds
    assert low.dtype == high.dtype == torch.float32
    assert low.shape == high.shape == x.shape
    wrong = ((low > x) | (x > high)).nonzero()
    assert not len(wrong), [(x[tuple(k)].item(), low[tuple(k)].item(), high[tuple(k)].item()) for k in wrong[:3]]


@given(VALUES, specs())
@settings(max_examples=400, deadline=None)
def test_every_weight_lies_in_its_cell(values, spec):
    x = torch.tensor(values, dtype=torch.float32)
    assert_within(x, bounds_of(x, spec))


@given(st.integers(1, 400), specs(), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_so_does_a_normal_one_of_any_size(n, spec, seed):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 9 - 6)
    assert_within(x, bounds_of(x, spec))


@pytest.mark.parametrize("bits", ["ternary", "3", "8"])
@pytest.mark.parametrize("scale_rounding", ["nearest", "up", "fit"])
def test_so_does_what_the_compiled_kernels_rounded(bits, scale_rounding):
    x = torch.randn(MIN_COMPILED + 77, generator=torch.Generator().manual_seed(3))
    assert_within(x, bounds_of(x, QuantSpec(bits=bits, scale_rounding=scale_rounding)))


@given(VALUES, st.sampled_from(BITS), st.integers(1, 40))
@settings(deadline=None)
def test_ends_are_midpoints_between_neighbouring_levels_and_the_largest_weight(values, bits, block):
    """Just inside of both ends the code stays the same, just outside it does not: the cell could not be narrower."""
    x = torch.tensor([value if abs(value) > 1e-3 else 0.0 for value in values])
    spec = QuantSpec(bits=bits, block=block, scale="fp32")
    parts = quantize_tensor(x, spec, name="x")
    (low, high), back = cell(parts, tuple(x.shape), spec), dequantize_tensor(parts, tuple(x.shape), spec)
    c = parts["scales"].repeat_interleave(block)[: len(x)]
    table = levels(bits).double()
    middle = torch.cat([torch.tensor([-1.0]), (table[1:] + table[:-1]) / 2, torch.tensor([1.0])]).double()
    codes = torch.searchsorted(table, (back.double() / c.clamp(min=1e-30)).clamp(-1, 1) - 1e-6)
    is_pinned = low == high
    for found, wanted in ((low, middle[codes] * c), (high, middle[codes + 1] * c)):
        assert torch.allclose(found.double()[~is_pinned], wanted[~is_pinned], rtol=1e-5, atol=1e-12)
    assert torch.equal(low[is_pinned], x[is_pinned])


@given(VALUES, specs(roundings=[("nearest", "nearest"), ("nearest", "fit")]), st.integers(2, 5))
@settings(deadline=None)
def test_of_weights_that_stay_equal_cells_leave_what_one_does(values, spec, n_rounds):
    x = torch.tensor(values, dtype=torch.float32)
    low, high = bounds_of(x, spec)
    assert torch.equal(intersect([(low, high)] * n_rounds, 0.0), intersect([(low, high)], 0.0))


@given(VALUES, st.sampled_from(BITS), st.integers(1, 40), st.floats(0, 0.5))
@settings(max_examples=100, deadline=None)
def test_with_enough_room_for_the_drift_what_is_left_holds_the_newest_weight(values, bits, block, drift):
    """So the estimate is off by at most half of the newest cell, however many older ones there are."""
    newest = torch.tensor(values, dtype=torch.float32)
    signs = torch.where(torch.arange(len(values)) % 2 == 0, 1.0, -1.0)
    spec = QuantSpec(bits=bits, block=block, scale="fp32")
    bounds = [bounds_of(newest - age * drift * signs, spec) for age in range(4)]
    found = intersect(bounds, drift * (1 + 1e-3) + 1e-3)
    half = (bounds[0][1].double() - bounds[0][0].double()) / 2
    assert ((found.double() - newest.double()).abs() <= half * (1 + 1e-5) + 1e-9).all()
