"""Laws of stochastic rounding and of scales from a grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.quantization import given_scales
from fedlpp_cli.quantization.blocks import nearest_codes
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.codec import encode
from fedlpp_cli.quantization.given_scales import encode_with
from fedlpp_cli.quantization.layout import DIGIT_GROUPS, FITTED_SHARES, fitted_shares
from fedlpp_cli.quantization.packing import unpack
from fedlpp_cli.quantization.scales import block_scales, fit, round_up
from fedlpp_cli.quantization.stochastic import stream_key
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor, round_tensor
from fedlpp_cli.records.specs import QuantSpec

BITS = ["ternary", "2", "3", "4", "5", "6", "8"]
WIDTHS = st.sampled_from(BITS)
FLOATS = st.floats(-1e4, 1e4, width=32)
VALUES = st.lists(FLOATS, min_size=1, max_size=60)
NORMAL_SCALES = st.lists(st.floats(2.0**-126, 2.0**127, width=32), min_size=1, max_size=20)
every_width = pytest.mark.parametrize("bits", BITS)


def drawn(bits, block=64, scale="fp32", seed="a", scale_rounding="nearest"):
    return QuantSpec(
        bits=bits, block=block, scale=scale, rounding="stochastic", rounding_seed=seed, scale_rounding=scale_rounding
    )


def normal(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def neighbours(x, c, table):
    """The levels around x / c in float64, the same twice for a level itself."""
    z = torch.where(c == 0, 0.0, x.double() / c.double()).clamp(-1, 1)
    wide = table.double()
    return wide[torch.searchsorted(wide, z, right=True) - 1], wide[torch.searchsorted(wide, z)]


def stored_scales(x, spec):
    """What a reader multiplies levels with, found by reading codes of the top level with these scales."""
    parts = quantize_tensor(x, spec, name="x")
    top = quantize_tensor(torch.ones(len(x)), QuantSpec(bits=spec.bits, block=spec.block), name="x")
    return dequantize_tensor({**parts, "codes": top["codes"]}, tuple(x.shape), spec)[:: spec.block]


@given(WIDTHS, VALUES, st.integers(1, 40), st.text("abc123", min_size=1, max_size=4))
def test_a_code_is_one_of_the_two_levels_around_and_a_level_is_kept(bits, values, block, seed):
    x, table = torch.tensor(values, dtype=torch.float32), levels(bits)
    parts = quantize_tensor(x, drawn(bits, block, seed=seed), name="x")
    found = table[unpack(parts["codes"], len(x), bits).long()].double()
    low, high = neighbours(x, parts["scales"].repeat_interleave(block)[: len(x)], table)
    assert ((found == low) | (found == high)).all()


@given(WIDTHS, VALUES, st.integers(1, 40))
def test_the_largest_weight_of_a_block_and_zeros_come_back_exactly(bits, values, block):
    x = torch.tensor(values, dtype=torch.float32)
    back = round_tensor(x, drawn(bits, block), name="x")
    largest = x.abs() == block_scales(x, block).repeat_interleave(block)[: len(x)]
    assert torch.equal(back[largest], x[largest])
    assert (back[x == 0] == 0).all()


@every_width
@pytest.mark.parametrize("scale", ["fp32", "fp16", "double"])
@pytest.mark.parametrize("scale_rounding", ["nearest", "up"])
def test_the_mean_of_many_seeds_is_the_weight_and_their_variance_the_formula_s(bits, scale, scale_rounding):
    """With the scale as it was stored, whatever rounding did to it; only beyond the scale a weight is cut off."""
    n_seeds, block = 400, 16
    x = normal(320) * torch.linspace(0.2, 2, 320)
    copies = torch.stack(
        [
            round_tensor(x, drawn(bits, block, scale, f"s{number}", scale_rounding), name="x").double()
            for number in range(n_seeds)
        ]
    )
    c = stored_scales(x, drawn(bits, block, scale, "s0", scale_rounding)).repeat_interleave(block).double()
    wanted = torch.minimum(torch.maximum(x.double(), -c.abs()), c.abs())
    low, high = neighbours(wanted, c, levels(bits))
    variance = ((wanted / c - low) * (high - wanted / c)).clamp(min=0) * c**2
    error = copies.mean(0) - wanted
    is_level = variance < 1e-12 * c**2
    assert (error[is_level].abs() <= 1e-6 * c[is_level].abs()).all()
    # 320 means of 400 draws: beyond 5 standard errors lies one in two million.
    scores = (error / (variance / n_seeds).sqrt())[~is_level]
    assert scores.abs().max() < 5
    # Were the draws of different seeds not independent, their means would scatter more.
    assert 0.75 < scores.square().mean() < 1.3


@every_width
def test_equal_inputs_give_equal_bytes_on_any_number_of_threads(bits):
    x, spec = normal(given_scales._PIECE + 1001), drawn(bits, 48)
    before = torch.get_num_threads()
    first = quantize_tensor(x, spec, name="x")
    try:
        torch.set_num_threads(1 + before % 2)
        second = quantize_tensor(x.clone(), spec, name="x")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[part], second[part]) for part in first)


@pytest.mark.parametrize("n", [1, 63, 1000, given_scales._PIECE, 2 * given_scales._PIECE + 7])
def test_any_float_type_draws_as_its_float32_values_do(n):
    x = normal(n).half()
    assert torch.equal(round_tensor(x, drawn("3"), name="x"), round_tensor(x.float(), drawn("3"), name="x"))


def test_another_label_another_name_and_another_weight_are_another_stream():
    """A weight's last bit changes the draws of all others: who does not know the weights cannot draw again."""
    x = normal(2000)
    other = x.clone()
    other[7] = torch.nextafter(other[7], torch.tensor(9.0))
    streams = [("a", "x", x), ("b", "x", x), ("a", "y", x), ("a", "x", other)]
    found = [unpack(quantize_tensor(v, drawn("3", seed=s), name=n)["codes"], 2000, "3") for s, n, v in streams]
    keys = {stream_key(*stream) for stream in streams}
    assert len(keys) == len(streams)
    for index, codes in enumerate(found[1:], start=1):
        differing = (codes != found[0]).double().mean()
        assert 0.2 < differing < 0.5, index
    rounded = round_tensor(x, drawn("3"), name="x")
    assert stream_key("a", "x", rounded) not in keys


def test_what_joins_names_keeps_them_apart():
    x = normal(3)
    assert stream_key("a", "bc", x) != stream_key("ab", "c", x)


def test_parts_of_a_long_tensor_have_numbers_of_their_own():
    piece = given_scales._PIECE
    x = torch.full((2 * piece,), 0.3)
    x[piece - 1] = x[-1] = 1.0
    codes = unpack(quantize_tensor(x, drawn("ternary", piece), name="x")["codes"], 2 * piece, "ternary")
    first, second = codes[:piece], codes[piece:]
    assert 0.29 < (first == 2).double().mean() < 0.31
    assert 0.40 < (first != second).double().mean() < 0.44  # 2 * 0.3 * 0.7


@given(WIDTHS, VALUES, st.integers(1, 40))
def test_given_its_own_scales_the_nearest_levels_are_those_of_the_usual_path(bits, values, block):
    x = torch.tensor(values, dtype=torch.float32)
    codes, scales = encode(x, bits, block)
    assert torch.equal(block_scales(x, block), scales)
    assert torch.equal(encode_with(x, scales, bits, block), codes)


@every_width
def test_so_they_are_over_several_pieces_with_blocks_across_their_ends(bits):
    x = normal(2 * given_scales._PIECE + 77)
    codes, scales = encode(x, bits, 48)
    assert torch.equal(block_scales(x, 48), scales)
    assert torch.equal(encode_with(x, scales, bits, 48), codes)


@given(NORMAL_SCALES)
def test_a_scale_is_rounded_up_to_the_next_number_of_the_grid_and_no_further(values):
    scales = torch.tensor(values, dtype=torch.float32)
    found = round_up(scales)
    assert (found >= scales).all()
    assert (found.double() < 1.125 * scales.double()).all()
    mantissa, _ = torch.frexp(found)
    assert torch.equal(mantissa * 16, (mantissa * 16).round())  # 0.5 to 1 in steps of 1/16: three explicit bits
    assert torch.equal(round_up(found), found)
    is_fp16 = (found >= 2.0**-21) & (found <= 61440)
    assert torch.equal(found[is_fp16].half().float(), found[is_fp16])


@given(NORMAL_SCALES)
def test_rounding_up_keeps_the_order(values):
    scales = torch.tensor(sorted(values), dtype=torch.float32)
    assert (round_up(scales).diff() >= 0).all()


def test_zero_stays_zero_and_what_is_above_the_grid_becomes_infinite():
    largest = torch.finfo(torch.float32).max
    assert round_up(torch.tensor([0.0, 1.0, 1.0000001, largest])).tolist() == [0.0, 1.0, 1.125, float("inf")]


@given(WIDTHS, VALUES, st.integers(1, 40), st.sampled_from(["fp32", "fp16"]), st.booleans())
def test_a_scale_from_the_grid_is_never_below_a_weight_and_is_stored_exactly(bits, values, block, scale, is_drawn):
    x = torch.tensor([value if abs(value) > 1e-6 else 0.0 for value in values], dtype=torch.float32)
    spec = QuantSpec(bits=bits, block=block, scale=scale, scale_rounding="up")
    if is_drawn:
        spec = drawn(bits, block, scale, scale_rounding="up")
    stored = quantize_tensor(x, spec, name="x")["scales"].float()
    assert torch.equal(stored, round_up(block_scales(x, block)))
    assert (stored.repeat_interleave(block)[: len(x)] >= x.abs()).all()


@given(WIDTHS, VALUES, st.integers(1, 40))
def test_codes_are_the_nearest_levels_to_the_weight_over_the_scale_from_the_grid(bits, values, block):
    x, table = torch.tensor(values, dtype=torch.float32), levels(bits)
    spec = QuantSpec(bits=bits, block=block, scale="fp32", scale_rounding="up")
    parts = quantize_tensor(x, spec, name="x")
    scales = parts["scales"].repeat_interleave(block)[: len(x)].double()
    is_plain = scales > 2e-38  # below, a reciprocal does not fit float32
    z = (x.double() / scales)[is_plain]
    found = table[unpack(parts["codes"], len(x), bits).long()].double()[is_plain]
    distances = (z.unsqueeze(1) - table.double()).abs().amin(1)
    assert ((z - found).abs() <= distances + 1e-6).all()


@given(
    st.sampled_from([*FITTED_SHARES, *DIGIT_GROUPS]),
    st.integers(1, 400),
    st.sampled_from([1, 3, 16, 64]),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_a_fitting_scale_loses_least_of_those_that_are_tried(bits, n, block, seed):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 3)
    x[: n // 5] = 0
    found, largest = fit(x, bits, block), block_scales(x, block)
    table = levels(bits)

    def errors(scales):
        c = scales.repeat_interleave(block)[:n]
        squares = (table[nearest_codes(x, c, table).long()] * c - x).double().square()
        return torch.nn.functional.pad(squares, (0, -n % block)).reshape(-1, block).sum(1)

    shares = torch.tensor(fitted_shares(bits))
    least = torch.stack([errors(largest * share) for share in shares]).amin(0)
    assert torch.allclose(errors(found), least, rtol=1e-6, atol=0)
    assert ((found == 0) == (largest == 0)).all()
    assert (found.unsqueeze(1) == largest.unsqueeze(1) * shares).any(1).all()


@pytest.mark.parametrize("scale", ["fp32", "fp16", "double"])
@pytest.mark.parametrize("bits", ["ternary", "2", "3", "4"])
def test_fitting_scales_lose_less_than_the_largest_weights(bits, scale):
    x = torch.randn(2**14, generator=torch.Generator().manual_seed(5))

    def error(scale_rounding):
        spec = QuantSpec(bits=bits, scale=scale, scale_rounding=scale_rounding)
        return (round_tensor(x, spec, name="x") - x).norm() / x.norm()

    assert error("fit") < {"ternary": 0.65, "2": 0.7, "3": 0.93, "4": 0.96}[bits] * error("nearest")


def test_fit_and_stochastic_do_not_go_together():
    with pytest.raises(ValueError, match="fit cuts weights off"):
        QuantSpec(rounding="stochastic", rounding_seed="a", scale_rounding="fit")
