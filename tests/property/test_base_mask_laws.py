"""Laws of masks on a private base: what is hidden leaves no trace, what is left is what it was, times a factor."""

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.adapters.masks import draw_masks
from fedlpp_cli.errors import GateError
from fedlpp_cli.models.base_mask import FeatureMask, draw_feature_mask
from fedlpp_cli.quantization.base_layout import packed_spec, weight_layout
from fedlpp_cli.quantization.base_weights import round_weight
from fedlpp_cli.quantization.tensors import dequantize_tensor
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import BaseQuantSpec

NUMPY = {"U8": np.uint8, "I8": np.int8, "F32": np.float32}
FORMATS = ["ternary", "nf2", "nf3", "nf4", "nf5", "nf6", "fp4", "int8"]
# What scaling changes; all else is codes, tables, and the JSON with the mean of scales.
SCALED = ("scales", "absmax", "nested_absmax", "scale_scales", "scale_offset", "SCB")
SHARES = st.floats(0.01, 0.9)


def weight(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mask_of(shape, axis, share, seed):
    """At least one feature hidden, and one left."""
    n = shape[axis]
    hidden = np.sort(np.random.default_rng(seed).permutation(n)[: min(max(1, int(share * n)), n - 1)])
    return FeatureMask(shape, axis, hidden)


def with_zeros(value, mask):
    value = value.copy()
    value[(slice(None),) * mask.axis + (mask.hidden,)] = 0
    return value


def rounded(value, spec, mask=None, *, factor=1.0):
    """The tensors of one rounded weight, by name."""
    patterns, shape = value.reshape(-1).view(np.uint32), value.shape
    layout = weight_layout("m.weight", shape, spec)
    out = {name: np.zeros(int(np.prod(dims)), NUMPY[kind]) for name, (kind, dims) in layout.items()}

    def write(name, offset, values):
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        out[name].view(np.uint8)[offset : offset + data.size] = data

    def read(start, stop):
        return patterns[start:stop].copy()

    round_weight("m.weight", shape, "F32", spec, read if mask is None else mask.over(read), write, factor=factor)
    return out


def dense(parts, shape, spec):
    """What clients make of them, float32."""
    tensors = {name.removeprefix("m.weight").lstrip("."): torch.from_numpy(part) for name, part in parts.items()}
    if spec.bits is not None:
        return dequantize_tensor(tensors, shape, packed_spec(spec)).numpy()
    if spec.format == "int8":
        return parts["m.weight"].reshape(shape) * (parts["m.SCB"] / np.float32(127))[:, None]
    beside = {name: tensor for name, tensor in tensors.items() if name}
    state = bnb.QuantState.from_dict(beside, device=torch.device("cpu"))
    return bnb.dequantize_4bit(tensors[""].reshape(-1, 1), state).float().numpy().reshape(shape)


@given(st.tuples(st.integers(2, 30), st.integers(2, 30)), st.sampled_from([0, 1]), SHARES, st.integers(1, 50),
       st.integers(0, 99))  # fmt: skip
def test_pieces_of_any_size_say_what_the_whole_says(shape, axis, share, step, seed):
    value, mask = weight(shape, seed), mask_of(shape, axis, share, seed)
    flat = value.reshape(-1)
    read = mask.over(lambda start, stop: flat[start:stop].copy())
    pieces = [read(start, min(start + step, flat.size)) for start in range(0, flat.size, step)]
    assert np.array_equal(np.concatenate(pieces).reshape(shape), with_zeros(value, mask))
    assert mask.n_weights == (with_zeros(np.ones(shape), mask) == 0).sum()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", FORMATS)
@given(st.tuples(st.integers(2, 12), st.integers(2, 150)), st.booleans(), SHARES, st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_hidden_is_zero_and_leaves_no_trace(name, double, shape, last, share, seed):
    spec = BaseQuantSpec(format=name, double=double)
    axis = int(last and spec.bits is not None)  # bitsandbytes' layouts have output features first
    value, mask = weight(shape, seed), mask_of(shape, axis, share, seed)
    plain = rounded(value, spec, mask)
    assert all(np.array_equal(plain[part], found) for part, found in rounded(with_zeros(value, mask), spec).items())
    scaled = rounded(value, spec, mask, factor=mask.factor)
    for part, found in scaled.items():
        if part.rpartition(".")[2] in SCALED and found.dtype == np.float32:
            assert np.array_equal(found, plain[part] * np.float32(mask.factor)), part
        elif "quant_state" not in part:
            assert np.array_equal(found, plain[part]), part
    said, unscaled = dense(scaled, shape, spec), dense(plain, shape, spec)
    is_hidden = with_zeros(np.ones(shape), mask) == 0
    assert (said[is_hidden] == 0).all()
    assert np.allclose(said, unscaled * np.float32(mask.factor), rtol=1e-2 if spec.bits is None else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
@given(st.integers(2, 12), st.integers(1, 3), SHARES, st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_rows_of_whole_blocks_are_those_of_the_copy_without_a_mask(name, n_rows, n_blocks, share, seed):
    """Exactly, with float32 scales: no block has a row of another kind in it."""
    spec, shape = BaseQuantSpec(format=name, double=False), (n_rows, 64 * n_blocks)
    value, mask = weight(shape, seed), mask_of(shape, 0, share, seed)
    kept = np.setdiff1d(np.arange(n_rows), mask.hidden)
    whole, masked = (dense(rounded(value, spec, one), shape, spec) for one in (None, mask))
    assert np.array_equal(masked[kept], whole[kept])
    assert (masked[mask.hidden] == 0).all()


def test_a_factor_that_float32_cannot_have_is_refused():
    value = np.full((2, 64), 3e38, np.float32)
    with pytest.raises(GateError, match=r"m.weight: weights are too large to count 2 times"):
        rounded(value, BaseQuantSpec(format="nf3", double=False), mask_of((2, 64), 0, 0.5, 0), factor=2.0)


@given(st.integers(1, 300), st.floats(0, 0.99), st.integers(0, 5))
def test_as_many_features_are_hidden_as_was_asked_for(n, share, seed):
    mask = draw_feature_mask("m.weight", (n, 3), 0, share, seed=seed, modules=())
    hidden = min(int(share * n + 1e-6), n - 1)
    if not hidden:
        assert mask is None
        return
    assert len(mask.hidden) == len(set(mask.hidden.tolist())) == hidden
    assert mask.factor == n / (n - hidden)
    assert (np.diff(mask.hidden) > 0).all()


def test_the_mean_over_seeds_is_the_base():
    """FedQSN's law, and what `factor` is for."""
    n, n_seeds = 40, 2000
    total = np.zeros(n)
    for seed in range(n_seeds):
        mask = draw_feature_mask("m.weight", (n, 3), 0, 0.25, seed=2**50 + seed, modules=())
        total += np.where(np.isin(np.arange(n), mask.hidden), 0, mask.factor)
    assert np.abs(total / n_seeds - 1).max() <= 5 * np.sqrt((1 / 0.75 - 1) / n_seeds)


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj"),
        ("h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc"),
        ("bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense"),
    ],
)
def test_the_adapter_s_server_mask_hides_the_same_features(tensor, module):
    """Whatever the shares: one is in the other."""
    masks = {
        share: draw_feature_mask(tensor, (40, 3), 0, share, seed=9, modules={module, "head.0"})
        for share in (0.1, 0.25, 0.5)
    }
    rows = draw_masks(
        {f"{module}.lora_A": (2, 3), f"{module}.lora_B": (40, 2)},
        MaskSpec(server=0.25), seed=9, federation="f" * 64, client=None, round_number=3,
    )  # fmt: skip
    assert np.array_equal(masks[0.25].hidden, np.flatnonzero(~rows[f"{module}.lora_B"]))
    assert set(masks[0.1].hidden) < set(masks[0.25].hidden) < set(masks[0.5].hidden)
    other = draw_feature_mask("other.weight", (40, 3), 0, 0.25, seed=9, modules={module})
    assert not np.array_equal(other.hidden, masks[0.25].hidden)
