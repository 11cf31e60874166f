"""A base's weight, rounded a piece at a time, holds what the reference path and bitsandbytes give for the whole."""

import json

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization import base_weights, row_kernels
from fedlpp_cli.quantization.base_layout import packed_spec, weight_layout
from fedlpp_cli.quantization.base_weights import PATTERNS, keep_weight, round_weight
from fedlpp_cli.quantization.blocks import quantize_blocks
from fedlpp_cli.quantization.codebooks import dynamic_map
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor
from fedlpp_cli.records.specs import BaseQuantSpec

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 300))
NUMPY = {"U8": np.uint8, "I8": np.int8, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    """So that a small weight is several pieces."""
    patch = pytest.MonkeyPatch()
    patch.setattr(base_weights, "PIECE", 4096)
    yield
    patch.undo()


def weight(shape, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-3, 1, shape[0]).unsqueeze(1)
    return (torch.randn(shape, generator=random) * scale).to(DTYPES[dtype])


def run(action, value, dtype, layout, *args):
    """The tensors that `action` writes, by name, each byte of each exactly once."""
    flat = value.contiguous().reshape(-1)
    patterns = flat.view({4: torch.uint32, 2: torch.uint16}[flat.element_size()]).numpy()
    assert patterns.dtype == PATTERNS[dtype]
    sizes = {name: int(np.prod(shape)) * np.dtype(NUMPY[kind]).itemsize for name, (kind, shape) in layout.items()}
    out = {name: np.zeros(size, np.uint8) for name, size in sizes.items()}
    times = {name: np.zeros(size, np.uint8) for name, size in sizes.items()}

    def write(name, offset, values):
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        out[name][offset : offset + data.size] = data
        times[name][offset : offset + data.size] += 1

    action("w", tuple(value.shape), dtype, *args, lambda start, stop: patterns[start:stop].copy(), write)
    assert all((count == 1).all() for count in times.values())
    return {name: data.view(NUMPY[layout[name][0]]) for name, data in out.items()}


@given(
    SHAPES,
    st.sampled_from(list(DTYPES)),
    st.sampled_from([64, 128, 4096]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_nibbles_are_those_of_bitsandbytes(shape, dtype, block, double, fp4, seed):
    kind = "fp4" if fp4 else "nf4"
    spec, value = BaseQuantSpec(format=kind, block=block, double=double), weight(shape, dtype, seed)
    found = run(round_weight, value, dtype, weight_layout("w", shape, spec), spec)
    codes, state = bnb.quantize_4bit(value.float(), blocksize=block, quant_type=kind)
    tail = value.numel() % block
    if (
        tail
    ):  # bitsandbytes divides by the last block's scale, here and on a GPU it is the reciprocal: a midpoint may differ
        whole = (value.numel() - tail) // 2
        assert np.array_equal(found["w"][:whole], codes.reshape(-1).numpy()[:whole])
    else:
        assert np.array_equal(found["w"], codes.reshape(-1).numpy())
    assert np.array_equal(found["w.quant_map"], state.code.numpy())
    said = json.loads(bytes(found[f"w.quant_state.bitsandbytes__{kind}"]))
    assert (said["shape"], said["blocksize"], said["quant_type"]) == (list(shape), block, kind)
    if not double:
        assert np.array_equal(found["w.absmax"], state.absmax.numpy())
        return
    offset = state.absmax.double().mean().float()
    assert said["nested_offset"] == pytest.approx(offset.item(), rel=1e-6)
    offset = torch.tensor(said["nested_offset"])
    expected, nested = bnb.quantize_blockwise(state.absmax - offset, blocksize=256)
    assert np.array_equal(found["w.absmax"], expected.numpy())
    assert np.array_equal(found["w.nested_absmax"], nested.absmax.numpy())
    assert np.array_equal(found["w.nested_quant_map"], dynamic_map().numpy())


@given(SHAPES, st.sampled_from(list(DTYPES)), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_bitsandbytes(shape, dtype, seed):
    spec, value = BaseQuantSpec(format="int8"), weight(shape, dtype, seed)
    value[0] = 0
    layout = {"w": ("I8", shape), ".SCB": ("F32", (shape[0],)), ".weight_format": ("U8", ())}
    found = run(round_weight, value, dtype, layout, spec)
    codes, scales, _ = bnb.int8_vectorwise_quant(value.half())
    assert np.array_equal(found["w"], codes.reshape(-1).numpy())
    assert np.array_equal(found[".SCB"], scales.numpy())


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)), st.sampled_from(list(DTYPES)),
    st.sampled_from(["ternary", "nf2", "nf3", "nf5", "nf6"]), st.sampled_from([16, 64, 100, 4096]), st.booleans(),
    st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_packed_weights_are_those_of_an_adapter(shape, dtype, name, block, double, seed):
    spec = BaseQuantSpec(format=name, block=block, double=double)
    value = weight((shape[0], shape[1] * shape[2]), dtype, seed).reshape(shape)
    found = run(round_weight, value, dtype, weight_layout("w", shape, spec), spec)
    parts = quantize_tensor(value, packed_spec(spec), name="w")
    assert {f"w.{part}" for part in parts} == set(found)
    for part, expected in parts.items():
        assert np.allclose(found[f"w.{part}"], expected.numpy(), rtol=1e-6, atol=0), part
    tensors = {part: torch.from_numpy(found[f"w.{part}"]) for part in parts}
    dense = dequantize_tensor(tensors, shape, packed_spec(spec))
    assert torch.allclose(dense, dequantize_tensor(parts, shape, packed_spec(spec)), rtol=1e-5, atol=1e-6)


@given(SHAPES, st.sampled_from(list(DTYPES)), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_what_is_kept_is_kept_in_sixteen_bits(shape, dtype, seed):
    value = weight(shape, dtype, seed)
    kind = "F16" if dtype == "F16" else "BF16"
    found = run(keep_weight, value, dtype, {"w": (kind, shape)})
    assert np.array_equal(found["w"].view(np.uint16), value.to(DTYPES[kind]).reshape(-1).view(torch.uint16).numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("name", ["nf4", "nf3", "ternary", "int8", "kept"])
def test_a_value_that_is_not_finite_is_named(bad, dtype, name):
    value = weight((40, 300), dtype, 0)
    value[33, 7] = bad
    spec = BaseQuantSpec(format="nf4" if name == "kept" else name)
    layout = weight_layout("w", (40, 300), spec)
    action, more = (keep_weight, ()) if name == "kept" else (round_weight, (spec,))
    if name == "kept":
        layout = {"w": ("F16" if dtype == "F16" else "BF16", (40, 300))}
    with pytest.raises(GateError, match=r"w: element \[33, 7\] is -?(nan|inf), finite values are needed"):
        run(action, value, dtype, layout, *more)


def test_a_value_beyond_float16_is_named_for_int8():
    value = weight((4, 30), "BF16", 0)
    value[2, 5] = -70000.0
    spec = BaseQuantSpec(format="int8")
    with pytest.raises(GateError, match=r"w: element \[2, 5\] is -70144, values below 65520 are needed"):
        run(round_weight, value, "BF16", weight_layout("w", (4, 30), spec), spec)


@given(st.integers(1, 2000), st.integers(0, 99), st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
@settings(deadline=None)
def test_scales_of_scales_are_the_reference_s_or_bitsandbytes(n, seed, spread):
    scales = 0.05 + spread * torch.rand(n, generator=torch.Generator().manual_seed(seed))
    offset = np.float32(row_kernels.mean_of(scales.numpy()))
    for kernel, table, expected in (
        (row_kernels.quantize_scales, row_kernels.scale_grid(), quantize_blocks(scales - offset, dynamic_map(), 256)),
        (row_kernels.look_up_scales, row_kernels.scale_table(), bnb.quantize_blockwise(scales - offset, blocksize=256)),
    ):
        codes, maxima = np.empty(n, np.uint8), np.empty(-(-n // 256), np.float32)
        kernel(scales.numpy(), offset, table, codes, maxima)
        assert np.array_equal(codes, expected[0].numpy())
        wanted = expected[1] if isinstance(expected[1], torch.Tensor) else expected[1].absmax
        assert np.array_equal(maxima, wanted.numpy())
