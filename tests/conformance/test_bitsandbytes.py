"""Our 4-bit codes, scales and values are bitsandbytes' own, bit for bit."""

import bitsandbytes.functional as bnb
import pytest
import torch

from fedlpp_cli.quantization.blocks import quantize_blocks
from fedlpp_cli.quantization.codebooks import dynamic_map, levels
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor
from fedlpp_cli.records.specs import QuantSpec


def draw(kind, shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=random)
    match kind:
        case "heavy tails":
            return values.pow(3)
        case "tiny":
            return values * 1e-6
        case "half zeros":
            return values * (torch.rand(shape, generator=random) > 0.5)
    return values


def test_the_4_bit_table_is_bitsandbytes_nf4():
    assert torch.equal(levels("4"), bnb.get_4bit_type("nf4", device="cpu"))


def test_the_table_for_scales_is_bitsandbytes_dynamic_map():
    assert torch.equal(dynamic_map(), bnb.create_dynamic_map())


@pytest.mark.parametrize("block", [32, 64, 128, 256, 1024, 4096])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "tiny", "half zeros"])
def test_codes_scales_and_values_equal(block, kind):
    values = draw(kind, (256, 4096), seed=block)
    packed, state = bnb.quantize_4bit(values, blocksize=block, quant_type="nf4")
    spec = QuantSpec(bits="4", block=block, scale="fp32")
    parts = quantize_tensor(values, spec, name="x")
    assert torch.equal(parts["codes"], packed.reshape(-1))
    assert torch.equal(parts["scales"], state.absmax)
    assert torch.equal(dequantize_tensor(parts, (256, 4096), spec), bnb.dequantize_4bit(packed, state))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_gives_equal_codes_and_scales(dtype):
    values = draw("normal", (64, 512)).to(dtype)
    packed, state = bnb.quantize_4bit(values, blocksize=64, quant_type="nf4")
    parts = quantize_tensor(values, QuantSpec(bits="4", block=64, scale="fp32"), name="x")
    assert torch.equal(parts["codes"], packed.reshape(-1))
    assert torch.equal(parts["scales"], state.absmax.float())


def test_a_short_last_block_gives_equal_codes_and_scales():
    # An even number: of an odd one, bitsandbytes fills the last half byte with the code of 0, we with zero bits.
    values = draw("normal", (1, 64 * 5 + 36))
    packed, state = bnb.quantize_4bit(values, blocksize=64, quant_type="nf4")
    parts = quantize_tensor(values, QuantSpec(bits="4", block=64, scale="fp32"), name="x")
    assert torch.equal(parts["codes"], packed.reshape(-1))
    assert torch.equal(parts["scales"], state.absmax)


def test_double_quantized_scales_are_bitsandbytes_but_for_its_slips():
    """Its CPU kernel takes the farther of two levels for about one scale in a thousand; ours never does."""
    values = draw("normal", (64, 64 * 64))
    _, state = bnb.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=True)
    scales = quantize_tensor(values, QuantSpec(bits="4", block=64, scale="fp32"), name="x")["scales"]
    rest = scales - state.offset
    codes, nested = quantize_blocks(rest, dynamic_map(), 256)
    assert torch.equal(nested, state.state2.absmax)
    scaled = rest / nested.repeat_interleave(256)[: len(rest)]
    ours, theirs = ((dynamic_map()[c.long()] - scaled).abs() for c in (codes, state.absmax))
    assert (ours <= theirs).all()
    assert (codes != state.absmax).float().mean() < 0.002
    # The mean itself: float64 here, so that it does not depend on threads, float32 there.
    offset = quantize_tensor(values, QuantSpec(bits="4", block=64, scale="double"), name="x")["scale_offset"]
    assert torch.allclose(offset, state.offset.reshape(1), rtol=1e-6, atol=0)
