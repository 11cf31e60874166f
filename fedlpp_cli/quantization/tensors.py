"""One adapter tensor as the parts that lie in a file (`layout.py`), and back.

With double quantization (QLoRA, arXiv 2305.14314, section 3) a scale is `dynamic_map[code] * scale_scale + offset`.
With bits "full" there is one part, the tensor itself in F32, under the empty name.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from fedlpp_cli.errors import GateError, NotFiniteError
from fedlpp_cli.quantization.blocks import dequantize_blocks, quantize_blocks
from fedlpp_cli.quantization.codebooks import dynamic_map
from fedlpp_cli.quantization.codec import decode, encode
from fedlpp_cli.quantization.given_scales import encode_with
from fedlpp_cli.quantization.layout import SCALES_BLOCK, Shape, table_of
from fedlpp_cli.quantization.scales import block_scales, fit, round_up
from fedlpp_cli.quantization.stochastic import stream_key
from fedlpp_cli.records.specs import QuantSpec


def quantize_tensor(values: Tensor, spec: QuantSpec, *, name: str) -> dict[str, Tensor]:
    """The parts of a tensor, as `layout.parts_layout` lists them.

    Args:
        values: any shape, any float type.
        spec: how to round.
        name: of the tensor: says which of the spec's groups it is in, what to call it in an error, and is part of the
            name of the random stream.

    Raises:
        GateError: a value that is not finite, or a scale too large for its type.
    """
    spec = spec.of(name)
    if spec.bits == "full":
        check_finite(values, name=name)
        return {"": values.detach().float().clone()}
    if spec.rounding == "nearest" and spec.scale_rounding == "nearest":
        codes, scales = encode(values, table_of(spec), spec.block)
        if not scales.isfinite().all():
            check_finite(values, name=name)
        return {"codes": codes, **_scale_parts(scales, spec, name=name)}
    scales = _scales(values, spec, name=name)
    stored = _scale_parts(scales, spec, name=name)
    key = None
    if spec.rounding_seed is not None:
        # The mean is to be right for who reads the value: chances come from the scale as it was stored. A weight
        # beyond that scale (fp16 and double quantization can round it down) gets the outermost level.
        scales = stored_scales(stored, spec)
        key = stream_key(spec.rounding_seed, name, values)
    return {"codes": encode_with(values, scales, table_of(spec), spec.block, key=key), **stored}


def dequantize_tensor(parts: Mapping[str, Tensor], shape: Shape, spec: QuantSpec) -> Tensor:
    """The values, float32 of that shape; `spec` is the tensor's own, without groups.

    Raises:
        ValueError: parts that no tensor of that shape gives, or scales that are not finite.
    """
    if spec.bits == "full":
        return parts[""].reshape(shape)
    scales = stored_scales(parts, spec)
    if not scales.isfinite().all():
        raise ValueError("a scale is not finite")
    return decode(parts["codes"], scales, math.prod(shape), table_of(spec), spec.block).reshape(shape)


def round_tensor(values: Tensor, spec: QuantSpec, *, name: str) -> Tensor:
    """What the other side will see: quantized and dequantized, float32."""
    return dequantize_tensor(quantize_tensor(values, spec, name=name), tuple(values.shape), spec.of(name))


def check_finite(values: Tensor, *, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NotFiniteError: naming the tensor and the first bad element.
    """
    finite = values.isfinite()
    if not finite.all():
        index = (~finite).nonzero()[0].tolist()
        raise NotFiniteError(f"{name}: element {index} is {values[tuple(index)].item()}, finite values are needed")


def _scales(values: Tensor, spec: QuantSpec, *, name: str) -> Tensor:
    scales = block_scales(values, spec.block)
    if not scales.isfinite().all():
        check_finite(values, name=name)
    if spec.scale_rounding == "nearest" or spec.bits == "full":
        return scales
    if spec.scale_rounding == "fit":
        return fit(values, table_of(spec), spec.block)
    grid = round_up(scales)
    if not grid.isfinite().all():
        raise GateError(
            f"{name}: a block's largest weight, {scales.max().item():g}, is too large to be rounded up",
            hint="--scale-rounding nearest",
        )
    return grid


def _scale_parts(scales: Tensor, spec: QuantSpec, *, name: str) -> dict[str, Tensor]:
    match spec.scale:
        case "fp32":
            return {"scales": scales}
        case "fp16":
            return {"scales": _half(scales, name=name)}
        case "double":
            # The mean in float64: a float32 sum would depend on the number of threads.
            offset = scales.double().mean().float().reshape(1)
            codes, nested = quantize_blocks(scales - offset, dynamic_map(), SCALES_BLOCK)
            return {"scale_codes": codes, "scale_scales": nested, "scale_offset": offset}


def stored_scales(parts: Mapping[str, Tensor], spec: QuantSpec) -> Tensor:
    """The scales as a reader has them, float32."""
    if spec.scale != "double":
        return parts["scales"].float()
    nested = dequantize_blocks(parts["scale_codes"], parts["scale_scales"], dynamic_map(), SCALES_BLOCK)
    return nested + parts["scale_offset"]


def _half(scales: Tensor, *, name: str) -> Tensor:
    half = scales.half()
    if not half.isfinite().all():
        raise GateError(f"{name}: a block's scale, {scales.max().item():g}, is beyond fp16", hint="--scale fp32")
    return half
