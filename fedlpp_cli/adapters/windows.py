"""A range of a component of an update or a proxy, decoded into memory that is used again.

Ranges start at multiples of WINDOW_UNIT: there packed codes of every width start with a byte, and sums with a lane.
"""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.proxy_tensors import Rounded, tensor_name
from fedlpp_cli.errors import ArtifactError, NotFiniteError
from fedlpp_cli.quantization.layout import SCALES_BLOCK, Shape, Table, packed_bytes, table_of
from fedlpp_cli.quantization.levels import level_values

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_UNIT: Final = 320

# Kernels hold whole blocks in nearby memory.
_MAX_BLOCK: Final = 4096
Array = NDArray[Any]


def read_window(file: Rounded, component: str, start: int, out: Array, *, compiled: bool) -> None:
    """Fill `out` with the values from `start` on.

    Args:
        file: its layout has been checked.
        component: its name.
        start: a multiple of WINDOW_UNIT.
        out: float32, contiguous. It ends with the component or before a multiple of WINDOW_UNIT.
        compiled: rounded values are decoded by the kernels, else by the reference path; the same bits.

    Raises:
        NotFiniteError: scales that are not finite. Numbers in full precision are not looked at.
        ArtifactError: codes that no tensor gives.
    """
    spec = file.header.spec.quantize.of(component)
    stop = start + len(out)
    if spec.bits == "full":
        _fill(file, component, 4 * start, out)
        return
    table = table_of(spec)
    first, last = packed_bytes(start, table), packed_bytes(stop, table)
    codes = np.empty(last - first, np.uint8)
    _fill(file, tensor_name(component, "codes"), first, codes)
    scales = _read_scales(file, component, start // spec.block, -(-stop // spec.block))
    block = math.gcd(spec.block, start) if start else spec.block
    block = block if block <= _MAX_BLOCK else math.gcd(block, _MAX_BLOCK)
    if block != spec.block:
        starts = start + np.arange(-(-len(out) // block)) * block
        scales = scales[starts // spec.block - start // spec.block]
    try:
        _decode(codes, scales, table, block, out, compiled=compiled)
    except ValueError as error:
        raise ArtifactError(f"{file.path}: component {component!r}: {error}") from None


def read_values(file: Rounded, component: str, shape: Shape, *, compiled: bool) -> Array:
    """The whole component, float32 of that shape; else as `read_window`."""
    out: Array = np.empty(shape, np.float32)
    read_window(file, component, 0, out.reshape(-1), compiled=compiled)
    return out


def _decode(codes: Array, scales: Array, bits: Table, block: int, out: Array, *, compiled: bool) -> None:
    import torch

    from fedlpp_cli.quantization.codec import decode, has_kernels
    from fedlpp_cli.quantization.packing import check_tail

    if compiled and has_kernels(bits):
        from fedlpp_cli.quantization.compiled import decode_patterns
        from fedlpp_cli.quantization.kernels import FLOAT32, dequantize_bytes

        if bits == "8":  # every byte is a code, and nothing is left over
            dequantize_bytes(codes, scales, level_values(bits), block, out)
        else:
            check_tail(torch.from_numpy(codes), len(out), bits)
            decode_patterns(codes, scales, bits, block, FLOAT32, out.view(np.uint32), threads=1)
    else:
        out[:] = decode(torch.from_numpy(codes), torch.from_numpy(scales), len(out), bits, block).numpy()


def _read_scales(file: Rounded, component: str, first: int, last: int) -> Array:
    """The scales of blocks `first` to `last`, float32, finite."""
    match file.header.spec.quantize.scale:
        case "fp32":
            return _read_finite(file, component, "scales", np.float32, first, last)
        case "fp16":
            return _read_finite(file, component, "scales", np.float16, first, last).astype(np.float32)
        case "double":
            codes = np.empty(last - first, np.uint8)
            _fill(file, tensor_name(component, "scale_codes"), first, codes)
            group = first // SCALES_BLOCK
            nested = _read_finite(file, component, "scale_scales", np.float32, group, -(-last // SCALES_BLOCK))
            offset = _read_finite(file, component, "scale_offset", np.float32, 0, 1)
            groups = np.arange(first, last) // SCALES_BLOCK - group
            scales = _dynamic_map().numpy()[codes] * nested[groups] + offset
            _check_finite(scales, file, component, "scale_codes")
            return np.asarray(scales, np.float32)


def _dynamic_map() -> "Tensor":
    from fedlpp_cli.quantization.codebooks import dynamic_map

    return dynamic_map()


def _read_finite(file: Rounded, component: str, part: str, dtype: type[Any], first: int, last: int) -> Array:
    values: Array = np.empty(last - first, dtype)
    _fill(file, tensor_name(component, part), first * values.itemsize, values)
    _check_finite(values, file, component, part)
    return values


def _check_finite(values: Array, file: Rounded, component: str, part: str) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{file.path}: tensor {tensor_name(component, part)!r} has values that are not finite")


def _fill(file: Rounded, name: str, offset: int, values: Array) -> None:
    file.read_into(values.view(np.uint8).data, file.tensors[name].start + offset)
