"""One adapter tensor as the parts that lie in a file (`layout.py`), and back.

With double quantization (QLoRA, arXiv 2305.14314, section 3) a scale is `dynamic_map[code] * scale_scale + offset`.
With bits "full" there is one part, the tensor itself in F32, under the empty name.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization.blocks import dequantize_blocks, quantize_blocks
from fedlpp_cli.quantization.codebooks import dynamic_map
from fedlpp_cli.quantization.codec import decode, encode
from fedlpp_cli.quantization.layout import SCALES_BLOCK, Shape
from fedlpp_cli.records.specs import QuantSpec


def quantize_tensor(values: Tensor, spec: QuantSpec, *, name: str) -> dict[str, Tensor]:
    """The parts of a tensor, as `layout.parts_layout` lists them.

    Args:
        values: any shape, any float type.
        spec: how to round.
        name: what to call the tensor in an error.

    Raises:
        GateError: a value that is not finite, or too large for an fp16 scale.
    """
    if spec.bits == "full":
        check_finite(values, name=name)
        return {"": values.detach().float().clone()}
    codes, scales = encode(values, spec.bits, spec.block)
    if not scales.isfinite().all():
        check_finite(values, name=name)
    parts = {"codes": codes}
    match spec.scale:
        case "fp32":
            parts["scales"] = scales
        case "fp16":
            parts["scales"] = _half(scales, name=name)
        case "double":
            # The mean in float64: a float32 sum would depend on the number of threads.
            offset = scales.double().mean().float().reshape(1)
            parts["scale_codes"], parts["scale_scales"] = quantize_blocks(scales - offset, dynamic_map(), SCALES_BLOCK)
            parts["scale_offset"] = offset
    return parts


def dequantize_tensor(parts: Mapping[str, Tensor], shape: Shape, spec: QuantSpec) -> Tensor:
    """The values, float32 of that shape.

    Raises:
        ValueError: parts that no tensor of that shape gives, or scales that are not finite.
    """
    if spec.bits == "full":
        return parts[""].reshape(shape)
    if spec.scale == "double":
        nested = dequantize_blocks(parts["scale_codes"], parts["scale_scales"], dynamic_map(), SCALES_BLOCK)
        scales = nested + parts["scale_offset"]
    else:
        scales = parts["scales"].float()
    if not scales.isfinite().all():
        raise ValueError("a scale is not finite")
    return decode(parts["codes"], scales, math.prod(shape), spec.bits, spec.block).reshape(shape)


def round_tensor(values: Tensor, spec: QuantSpec, *, name: str) -> Tensor:
    """What the other side will see: quantized and dequantized, float32."""
    return dequantize_tensor(quantize_tensor(values, spec, name=name), tuple(values.shape), spec)


def check_finite(values: Tensor, *, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        GateError: naming the tensor and the first bad element.
    """
    finite = values.isfinite()
    if not finite.all():
        index = (~finite).nonzero()[0].tolist()
        raise GateError(f"{name}: element {index} is {values[tuple(index)].item()}, finite values are needed")


def _half(scales: Tensor, *, name: str) -> Tensor:
    half = scales.half()
    if not half.isfinite().all():
        raise GateError(
            f"{name}: a block's largest weight, {scales.max().item():g}, is beyond fp16", hint="--scale fp32"
        )
    return half
