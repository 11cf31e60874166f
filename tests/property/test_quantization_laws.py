"""Laws of the quantizer, on whatever hypothesis thinks of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.quantization.blocks import dequantize_blocks, quantize_blocks
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.layout import DIGIT_GROUPS, max_codes
from fedlpp_cli.quantization.packing import pack, packed_bytes, unpack
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import QuantSpec

WIDTHS = st.sampled_from(["ternary", "2", "3", "4", "5", "6", "8", *DIGIT_GROUPS])
FLOATS = st.floats(-1e4, 1e4, width=32)
# Below the floor of a block's scale the largest weight is none.
NORMAL_FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def codes(draw):
    bits = draw(WIDTHS)
    return bits, draw(st.lists(st.integers(0, len(levels(bits)) - 1), max_size=70))


@given(codes())
def test_unpack_undoes_pack_and_the_size_is_as_announced(drawn):
    bits, values = drawn
    packed = pack(torch.tensor(values, dtype=torch.uint8), bits)
    assert len(packed) == packed_bytes(len(values), bits)
    assert unpack(packed, len(values), bits).tolist() == values
    room = max_codes(len(packed), bits)
    assert len(values) <= room <= len(values) + (9 if bits in DIGIT_GROUPS else 4)
    assert packed_bytes(room, bits) == len(packed) < packed_bytes(room + 1, bits)


@given(WIDTHS, st.binary(min_size=1, max_size=40), st.integers(1, 60))
def test_bytes_either_are_codes_or_are_refused(bits, data, n_codes):
    """No two byte strings mean the same codes: nothing can hide in what is left over."""
    packed = torch.tensor(list(data), dtype=torch.uint8)
    try:
        found = unpack(packed, n_codes, bits)
    except ValueError:
        return
    assert int(found.max()) < len(levels(bits))
    assert torch.equal(pack(found, bits), packed)


@given(WIDTHS, st.lists(FLOATS, min_size=1, max_size=60), st.integers(1, 40))
def test_the_code_is_the_nearest_level_and_the_lower_of_two(bits, values, block):
    """Against the definition itself, level by level in float64, wherever float32 can tell the levels apart."""
    x, table = torch.tensor(values, dtype=torch.float32), levels(bits)
    found, scales = quantize_blocks(x, table, block)
    for index, code in enumerate(found.tolist()):
        scale = scales[index // block].double()
        if scale < 2e-38:  # below, a reciprocal does not fit float32
            assert scale > 0 or table[code] == 0
            continue
        distances = (x[index].double() / scale - table.double()).abs()
        assert distances[code] <= distances.min() + 1e-6
        if (distances - distances.min() < 1e-6).sum() == 1:
            assert code == int(distances.argmin())


@given(WIDTHS, st.lists(NORMAL_FLOATS, min_size=1, max_size=60), st.integers(1, 40))
def test_rounding_twice_is_rounding_once(bits, values, block):
    codebook = "symmetric" if bits in DIGIT_GROUPS else "nf"
    spec = QuantSpec(bits=bits.removeprefix("symmetric-"), block=block, scale="fp32", codebook=codebook)
    once = round_tensor(torch.tensor(values, dtype=torch.float32), spec, name="x")
    assert torch.allclose(round_tensor(once, spec, name="x"), once, rtol=1e-6, atol=0)


@given(WIDTHS, st.lists(FLOATS, min_size=1, max_size=60), st.integers(1, 40))
def test_nothing_grows_beyond_its_block(bits, values, block):
    x, table = torch.tensor(values, dtype=torch.float32), levels(bits)
    found, scales = quantize_blocks(x, table, block)
    back = dequantize_blocks(found, scales, table, block)
    assert (back.abs() <= scales.repeat_interleave(block)[: len(x)]).all()


@given(st.sampled_from(["ternary", "3", "4", "8"]), st.integers(-20, 20), st.integers(0, 10))
@settings(max_examples=40)
def test_rounding_scales_with_powers_of_two(bits, exponent, seed):
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    spec = QuantSpec(bits=bits, block=32, scale="fp32")
    assert torch.equal(round_tensor(x * 2.0**exponent, spec, name="x"), round_tensor(x, spec, name="x") * 2.0**exponent)


def test_codes_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match="code 3"):
        dequantize_blocks(torch.tensor([3], dtype=torch.uint8), torch.ones(1), levels("ternary"), 4)
