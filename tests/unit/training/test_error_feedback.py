"""What is sent, what is kept, and what is refused, when an update is rounded."""

import math

import pytest
import torch

from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization.tensors import dequantize_tensor, round_tensor
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec
from fedlpp_cli.training.error_feedback import round_update

SHAPES = {"a.lora_A": (4, 33), "a.lora_B": (7, 4), "head.bias": (3,)}
SPECS = [QuantSpec(bits=bits, scale=scale) for bits in ("ternary", "2", "4") for scale in ("fp32", "fp16", "double")]
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}


def draw(seed, size=1e-2):
    random = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


def test_full_precision_without_a_residual_sends_the_very_bits():
    delta = draw(0)
    found = round_update(delta, FULL_PRECISION)
    assert list(found.parts) == list(found.values) == list(SHAPES)
    for name, value in delta.items():
        assert found.parts[name].numpy().tobytes() == value.numpy().tobytes()
        assert torch.equal(found.values[name], value)


def test_full_precision_sends_a_residual_whole_and_keeps_nothing():
    delta, residual = draw(0), draw(1)
    found = round_update(delta, FULL_PRECISION, residual)
    for name in SHAPES:
        assert torch.equal(found.parts[name], delta[name] + residual[name])
        assert found.residual[name].numpy().tobytes() == bytes(4 * delta[name].numel())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.bits}-{spec.scale}")
def test_the_values_are_what_the_parts_say_and_the_residual_is_the_rest(spec):
    delta, residual = draw(0), draw(1)
    found = round_update(delta, spec, residual)
    layout = {name: (NAMES[part.dtype], tuple(part.shape)) for name, part in found.parts.items()}
    assert layout == proxy_layout(SHAPES, spec)
    for name, shape in SHAPES.items():
        parts = {key.removeprefix(f"{name}."): part for key, part in found.parts.items() if key.startswith(f"{name}.")}
        assert torch.equal(found.values[name], dequantize_tensor(parts, shape, spec))
        wanted = delta[name].double() + residual[name].double()
        assert torch.equal(found.values[name], round_tensor(wanted.float(), spec, name=name))
        assert torch.equal(found.residual[name], (wanted - found.values[name].double()).float())
        assert found.residual[name].abs().max() > 0


def test_what_was_given_is_left_as_it_was():
    delta, residual = draw(0), draw(1)
    round_update(delta, QuantSpec(bits="2"), residual)
    assert all(torch.equal(delta[name], draw(0)[name]) for name in SHAPES)
    assert all(torch.equal(residual[name], draw(1)[name]) for name in SHAPES)


@pytest.mark.parametrize("spec", [FULL_PRECISION, QuantSpec(bits="4")], ids=["full", "4"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(spec, bad):
    delta = draw(0)
    delta["a.lora_B"][2, 1] = bad
    with pytest.raises(GateError, match=r"^a\.lora_B: element \[2, 1\] is .*; nothing was written$"):
        round_update(delta, spec)


def test_an_update_beyond_fp16_scales_tells_the_client_whom_to_ask():
    with pytest.raises(GateError, match="beyond fp16; nothing was written") as caught:
        round_update(draw(0, size=1e6), QuantSpec(bits="4", scale="fp16"))
    assert caught.value.hint == "ask the owner for pack --update-scale fp32"


def test_a_sum_beyond_float32_is_refused():
    large = {"a": torch.full((3,), 3e38)}
    with pytest.raises(GateError, match=r"a: element \[0\] is inf"):
        round_update(large, QuantSpec(bits="4", scale="fp32"), large)
