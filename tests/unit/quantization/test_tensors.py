"""Quantizing whole tensors: the cases that the formula leaves to care."""

import math

import pytest
import torch

from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization.layout import parts_layout
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor, round_tensor
from fedlpp_cli.records.specs import QuantSpec

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}
WIDTHS = ["ternary", "2", "3", "4", "5", "6", "8"]
# ||Q(x) - x|| / ||x|| on standard normal x, worked out apart from this code.
RELATIVE_ERROR = {
    "ternary": {16: 0.585, 64: 0.719, 256: 0.808},
    "2": {16: 0.462, 64: 0.563, 256: 0.630},
    "3": {16: 0.174, 64: 0.202, 256: 0.218},
    "4": {16: 0.081, 64: 0.092, 256: 0.099},
    "5": {16: 0.039, 64: 0.044, 256: 0.048},
    "8": {16: 0.0048, 64: 0.0054, 256: 0.0058},
}


@pytest.fixture(scope="module")
def normal():
    return torch.randn(2**18, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", RELATIVE_ERROR)
@pytest.mark.parametrize("block", [16, 64, 256])
def test_relative_error_is_that_of_the_golden_table(normal, bits, block):
    rounded = round_tensor(normal, QuantSpec(bits=bits, block=block, scale="fp32"), name="x")
    found = ((rounded - normal).norm() / normal.norm()).item()
    assert found == pytest.approx(RELATIVE_ERROR[bits][block], rel=0.02)


@pytest.mark.parametrize("bits", WIDTHS)
def test_small_scales_cost_little(normal, bits):
    errors = {
        scale: (round_tensor(normal, QuantSpec(bits=bits, scale=scale), name="x") - normal).norm()
        for scale in ("fp32", "fp16", "double")
    }
    assert errors["fp16"] <= 1.001 * errors["fp32"]
    assert errors["double"] <= 1.2 * errors["fp32"]


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_largest_weight_of_a_block_comes_back_exactly(bits):
    values = torch.tensor([0.1, -0.25, 3.0, 0.5])
    assert round_tensor(values, QuantSpec(bits=bits, block=4, scale="fp32"), name="x")[2] == 3.0


def test_a_tie_goes_to_the_lower_level():
    # Halfway between 0 and 1, and between -1 and 0.
    values = torch.tensor([1.0, 0.5, -0.5, -1.0])
    rounded = round_tensor(values, QuantSpec(bits="ternary", block=4, scale="fp32"), name="x")
    assert rounded.tolist() == [1.0, 0.0, -1.0, -1.0]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("scale", ["fp32", "fp16", "double"])
def test_zeros_stay_zeros(bits, scale):
    values = torch.cat([torch.zeros(64), torch.ones(3)])
    rounded = round_tensor(values, QuantSpec(bits=bits, block=64, scale=scale), name="x")
    assert (rounded[:64] == 0).all()


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_short_last_block_has_a_scale_of_its_own(bits):
    values = torch.cat([torch.full((8,), 100.0), torch.tensor([0.5])])
    rounded = round_tensor(values, QuantSpec(bits=bits, block=8, scale="fp32"), name="x")
    assert rounded[-1] == 0.5


def test_a_block_larger_than_the_tensor_is_one_block():
    parts = quantize_tensor(torch.ones(3), QuantSpec(block=4096, scale="fp32"), name="x")
    assert parts["scales"].shape == (1,)


def test_tiny_values_do_not_become_nan():
    values = torch.tensor([1e-40, 0.0, -1e-42])
    rounded = round_tensor(values, QuantSpec(block=4, scale="fp32"), name="x")
    assert rounded.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_float_type_goes_in_and_float32_comes_out(dtype):
    values = torch.randn(100, generator=torch.Generator().manual_seed(1)).to(dtype)
    spec = QuantSpec(bits="4", scale="fp32")
    assert round_tensor(values, spec, name="x").dtype == torch.float32
    assert torch.equal(round_tensor(values, spec, name="x"), round_tensor(values.float(), spec, name="x"))


def test_full_precision_changes_nothing():
    values = torch.randn(5, 7)
    assert torch.equal(round_tensor(values, QuantSpec(bits="full"), name="x"), values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad):
    values = torch.zeros(3, 4)
    values[1, 2] = bad
    with pytest.raises(GateError, match=r"layer.lora_A: element \[1, 2\]"):
        quantize_tensor(values, QuantSpec(), name="layer.lora_A")


def test_a_weight_too_large_for_an_fp16_scale_is_refused_and_fp32_takes_it():
    values = torch.tensor([1e6, 1.0])
    with pytest.raises(GateError, match="beyond fp16") as caught:
        quantize_tensor(values, QuantSpec(scale="fp16"), name="x")
    assert caught.value.hint == "--scale fp32"
    assert round_tensor(values, QuantSpec(scale="fp32"), name="x")[0] == 1e6


@pytest.mark.parametrize("bits", [*WIDTHS, "full"])
@pytest.mark.parametrize("scale", ["fp32", "fp16", "double"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 5), (64, 8), (300, 70)])
def test_parts_are_what_the_layout_announces(bits, scale, shape):
    spec = QuantSpec(bits=bits, scale=scale, block=16)
    parts = quantize_tensor(torch.randn(shape), spec, name="x")
    assert {name: (NAMES[part.dtype], tuple(part.shape)) for name, part in parts.items()} == parts_layout(shape, spec)


def test_bits_per_parameter_are_within_two_percent_of_the_formula():
    shape = (512, 512)
    for bits, width in {"2": 2, "3": 3, "4": 4, "5": 5, "6": 6, "8": 8, "ternary": 1.6}.items():
        for scale, scale_bits in {"fp32": 32, "fp16": 16, "double": 8}.items():
            layout = parts_layout(shape, QuantSpec(bits=bits, scale=scale, block=64))
            sizes = {"U8": 1, "F16": 2, "F32": 4}
            n_bytes = sum(sizes[dtype] * math.prod(part) for dtype, part in layout.values())
            assert 8 * n_bytes / math.prod(shape) == pytest.approx(width + scale_bits / 64, rel=0.02)


OTHERS = [
    {"scale_rounding": "up"},
    {"rounding": "stochastic", "rounding_seed": "a"},
    {"rounding": "stochastic", "rounding_seed": "a", "scale_rounding": "up"},
]
other_roundings = pytest.mark.parametrize("fields", OTHERS, ids=["up", "stochastic", "stochastic up"])


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("scale", ["fp32", "fp16", "double"])
@other_roundings
def test_every_rounding_has_the_same_parts(bits, scale, fields):
    spec = QuantSpec(bits=bits, scale=scale, block=16, **fields)
    for values in (torch.randn(3, 50), torch.zeros(5), torch.cat([torch.zeros(64), torch.full((3,), 1e-9)])):
        parts = quantize_tensor(values, spec, name="x")
        found = {name: (NAMES[part.dtype], tuple(part.shape)) for name, part in parts.items()}
        assert found == parts_layout(tuple(values.shape), spec)
        back = dequantize_tensor(parts, tuple(values.shape), spec)
        assert back.isfinite().all()
        assert (back[values == 0] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@other_roundings
def test_every_rounding_refuses_what_is_not_finite_with_its_place(bad, fields):
    values = torch.zeros(3, 4)
    values[1, 2] = bad
    with pytest.raises(GateError, match=r"layer.lora_A: element \[1, 2\]"):
        quantize_tensor(values, QuantSpec(**fields), name="layer.lora_A")


def test_a_scale_that_cannot_be_rounded_up_is_refused_with_a_way_out():
    with pytest.raises(GateError, match=r"x: a block's largest weight, 3\.4e\+38, is too large") as caught:
        quantize_tensor(torch.tensor([3.4e38]), QuantSpec(scale="fp32", scale_rounding="up"), name="x")
    assert caught.value.hint == "--scale-rounding nearest"
    with pytest.raises(GateError, match=r"x: a block's scale, 65536, is beyond fp16") as caught:
        quantize_tensor(torch.tensor([65000.0]), QuantSpec(scale="fp16", scale_rounding="up"), name="x")
    assert caught.value.hint == "--scale fp32"
    assert quantize_tensor(torch.tensor([65000.0]), QuantSpec(scale="fp16"), name="x")["scales"].tolist() == [64992.0]


def test_with_scales_rounded_up_no_block_gives_its_largest_weight_away(normal):
    blocks = normal.reshape(-1, 64)
    largest = blocks.abs() == blocks.abs().amax(1, keepdim=True)
    for scale in ("fp32", "fp16"):
        exact, coarse = (
            round_tensor(normal, QuantSpec(scale=scale, scale_rounding=rounding), name="x").reshape(-1, 64)[largest]
            for rounding in ("nearest", "up")
        )
        true = blocks[largest]
        assert ((exact - true).abs() <= 2.0**-11 * true.abs()).all()
        off = (coarse - true).abs() / true.abs()
        assert (off > 2.0**-11).double().mean() > 0.99
        assert off.mean() > 0.04


@pytest.mark.parametrize("bits", ["2", "3", "4"])
def test_a_draw_is_worse_than_the_nearest_level_and_a_mean_of_draws_is_better(normal, bits):
    x = normal[: 2**14]

    def error(back):
        return ((back - x).norm() / x.norm()).item()

    draws = [
        round_tensor(x, QuantSpec(bits=bits, rounding="stochastic", rounding_seed=f"s{number}"), name="x")
        for number in range(32)
    ]
    nearest = error(round_tensor(x, QuantSpec(bits=bits), name="x"))
    assert error(draws[0]) > 1.3 * nearest
    assert error(torch.stack(draws).mean(0)) < 0.4 * nearest


def test_scales_that_are_not_finite_are_refused_when_read():
    spec = QuantSpec(scale="fp32")
    parts = quantize_tensor(torch.ones(10), spec, name="x")
    parts["scales"][0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        dequantize_tensor(parts, (10,), spec)


@pytest.mark.parametrize("part", ["codes", "scales"])
def test_parts_of_another_length_are_refused(part):
    spec = QuantSpec(scale="fp32", block=4)
    parts = quantize_tensor(torch.ones(10), spec, name="x")
    parts[part] = parts[part][:-1]
    with pytest.raises(ValueError, match=r"needed|scales for"):
        dequantize_tensor(parts, (10,), spec)


def test_rounding_leaves_its_argument_alone():
    values = torch.randn(100)
    before = values.clone()
    round_tensor(values, QuantSpec(), name="x")
    assert torch.equal(values, before)
