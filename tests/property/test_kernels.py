"""The compiled kernels give the bytes of the reference path, whatever the width, type, block, length and threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.quantization import codec
from fedlpp_cli.quantization import compiled as compiled_path
from fedlpp_cli.quantization.blocks import dequantize_blocks, nearest_codes, quantize_blocks
from fedlpp_cli.quantization.codebooks import levels, midpoints
from fedlpp_cli.quantization.given_scales import encode_with
from fedlpp_cli.quantization.packing import pack, unpack
from fedlpp_cli.quantization.scales import block_scales

WIDTHS = st.sampled_from(["ternary", "2", "3", "4", "5", "6", "8"])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
BLOCKS = st.one_of(st.sampled_from([16, 64, 256, 4096]), st.integers(1, 100))
LENGTHS = st.one_of(st.integers(1, 300), st.integers(1, 30_000))


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """Kernels for tensors of any size, two threads for more than a chunk."""
    patch = pytest.MonkeyPatch()
    patch.setattr(codec, "MIN_COMPILED", 1)
    patch.setattr(compiled_path, "_MIN_PER_THREAD", 5000)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    patch.undo()


def bits_of(x):
    return x.view({4: torch.int32, 2: torch.int16}[x.element_size()])


def draw(n, dtype, seed, exponent, n_zeros):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=random) * 2.0**exponent
    x[torch.randperm(n, generator=random)[: n_zeros * n // 10]] = 0
    return x.to(dtype)


@settings(max_examples=200, deadline=None)
@given(WIDTHS, DTYPES, BLOCKS, LENGTHS, st.integers(0, 99), st.integers(-30, 10), st.integers(0, 10))
def test_kernels_give_the_bytes_of_the_reference(bits, dtype, block, n, seed, exponent, n_zeros):
    x = draw(n, dtype, seed, exponent, n_zeros)
    packed, scales = codec.encode(x, bits, block)
    codes, expected = quantize_blocks(x, levels(bits), block)
    assert torch.equal(scales, expected)
    assert torch.equal(packed, pack(codes, bits))


@settings(max_examples=100, deadline=None)
@given(WIDTHS, DTYPES, BLOCKS, LENGTHS, st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0, 3.0]))
def test_kernels_give_the_bytes_of_the_reference_with_given_scales(bits, dtype, block, n, seed, share):
    x = draw(n, dtype, seed, 0, 1)
    scales = share * block_scales(x, block) * torch.rand(-(-n // block), generator=torch.Generator().manual_seed(seed))
    packed = encode_with(x, scales, bits, block)
    codes = nearest_codes(x.float(), scales.repeat_interleave(block)[:n], levels(bits))
    assert torch.equal(packed, pack(codes, bits))


@settings(max_examples=100, deadline=None)
@given(WIDTHS, DTYPES, BLOCKS, LENGTHS, st.integers(0, 99))
def test_kernels_give_the_values_of_the_reference(bits, dtype, block, n, seed):
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, len(levels(bits)), (n,), generator=random).to(torch.uint8)
    scales = torch.rand(-(-n // block), generator=random)
    found = codec.decode(pack(codes, bits), scales, n, bits, block, dtype)
    assert torch.equal(bits_of(found), bits_of(dequantize_blocks(codes, scales, levels(bits), block).to(dtype)))


@settings(deadline=None)
@given(WIDTHS, st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200), st.integers(1, 40))
def test_any_bit_pattern_is_a_code_or_shows_in_its_scale(bits, patterns, block):
    """Denormals, infinities, NaN: nothing is read or written out of place, and nothing that is not finite is hidden."""
    x = torch.tensor(patterns, dtype=torch.int64).to(torch.uint32).view(torch.float32)
    packed, scales = codec.encode(x, bits, block)
    rows = torch.nn.functional.pad(x, (0, -len(x) % block)).reshape(-1, block)
    assert torch.equal(scales.isfinite(), rows.isfinite().all(1))
    codes = unpack(packed, len(x), bits)
    good = scales.isfinite().repeat_interleave(block)[: len(x)]
    expected, _ = quantize_blocks(torch.where(good, x, 0), levels(bits), block)
    assert torch.equal(codes[good], expected[good])


@pytest.mark.parametrize("bits", ["ternary", "2", "3", "4", "5", "6", "8"])
def test_values_on_and_beside_a_midpoint(bits):
    """Where one bit more would be another code."""
    edges = midpoints(levels(bits))
    beside = [torch.nextafter(edges, torch.full_like(edges, side)) for side in (-2.0, 2.0)]
    x = torch.cat([torch.ones(1), edges, *beside])
    packed, _ = codec.encode(x, bits, len(x))
    codes, _ = quantize_blocks(x, levels(bits), len(x))
    assert torch.equal(packed, pack(codes, bits))
    n = len(edges)
    assert codes[1 : 2 * n + 1].tolist() == [*range(n), *range(n)]  # on and just below: the lower level
    assert codes[2 * n + 1 :].tolist() == [*range(1, n + 1)]


def test_every_half_precision_pattern_is_read_right():
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
        x = torch.where(x.isfinite(), x, 0)
        _, scales = codec.encode(x, "4", 1)
        assert torch.equal(scales, x.float().abs())


@pytest.mark.parametrize(
    ("bits", "spoil", "message"),
    [
        ("ternary", lambda packed: packed.index_fill(0, torch.tensor([7]), 250), "above 242"),
        ("ternary", lambda packed: packed.index_fill(0, torch.tensor([-1]), 242), "behind the last"),
        ("3", lambda packed: packed.index_fill(0, torch.tensor([-1]), 255), "behind the last"),
        ("4", lambda packed: packed[:-1], "are needed"),
    ],
)
def test_bytes_that_no_codes_make_are_refused(bits, spoil, message):
    packed, scales = codec.encode(torch.randn(1001), bits, 16)
    with pytest.raises(ValueError, match=message):
        codec.decode(spoil(packed), scales, 1001, bits, 16)
    with pytest.raises(ValueError, match="scales for 1001 codes"):
        codec.decode(packed, scales[:-1], 1001, bits, 16)
