"""Round a private base's weight, a piece at a time, into the tensors that `base_layout.py` lists. Loads no torch.

Memory is a piece of the source and of the codes, and the scales: the weight itself is never whole in memory, unless it
lies transposed in its file.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization import row_kernels
from fedlpp_cli.quantization.base_layout import encode_state, state_name
from fedlpp_cli.quantization.compiled import chunk_size, encode_patterns
from fedlpp_cli.quantization.kernels import BFLOAT16, FLOAT16, FLOAT32
from fedlpp_cli.quantization.layout import SCALES_BLOCK, Shape, packed_bytes
from fedlpp_cli.quantization.levels import dynamic_values, fp4_values, level_values
from fedlpp_cli.records.specs import BaseQuantSpec

Array = NDArray[Any]
# (first value, last value + 1) to bit patterns; they stay until the next call.
Read = Callable[[int, int], Array]
# name, offset in bytes, bytes
Write = Callable[[str, int, Array], None]

KINDS: Final = {"F32": FLOAT32, "BF16": BFLOAT16, "F16": FLOAT16}
PATTERNS: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype(np.uint32),
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.uint16),
}
PIECE: Final = 2**19
# From here on float16 rounds to infinity, and bfloat16.
_BEYOND_HALF: Final = 65520.0
_LARGEST_KEPT: Final = 2.0**128 * (1 - 2.0**-9)
_TORCH_NAMES: Final = {"F32": "bfloat16", "BF16": "bfloat16", "F16": "float16"}


def round_weight(
    name: str, shape: Shape, dtype: str, spec: BaseQuantSpec, read: Read, write: Write, *, factor: float = 1.0
) -> None:
    """Round one weight.

    Args:
        name: its name.
        shape: `(out_features, in_features)`, or any that `weight_layout` takes.
        dtype: "F32", "BF16" or "F16".
        spec: how.
        read: gives its values, row by row.
        write: takes what comes out.
        factor: what the rounded values count times, rounded to float32. It is in the scales, or with `double` in those
            of the scales and in their mean, by one multiplication in float32 each: codes are those of a factor of 1.

    Raises:
        GateError: a value that is not finite, or, with int8, not in float16; scales that `factor` makes infinite.
    """
    if spec.format == "int8":
        _round_rows(name, shape, dtype, read, write, factor)
    elif spec.bits is None:
        _round_nibbles(name, shape, dtype, spec, read, write, factor)
    else:
        scales = _round_blocks(f"{name}.codes", name, shape, dtype, spec, read, write)
        if spec.double:
            offset, codes, maxima = _round_scales(scales)
            write(f"{name}.scale_codes", 0, codes)
            write(f"{name}.scale_scales", 0, _scaled(name, maxima, factor))
            write(f"{name}.scale_offset", 0, _scaled(name, np.array([offset], np.float32), factor))
        else:
            write(f"{name}.scales", 0, _scaled(name, scales, factor))


def keep_weight(name: str, shape: Shape, dtype: str, read: Read, write: Write) -> None:
    """Copy one weight in 16 bits: float32 as bfloat16, nearest even; others as they are.

    Raises:
        GateError: a value that is not finite.
    """
    n_values = math.prod(shape)
    for start in range(0, n_values, PIECE):
        piece = read(start, min(start + PIECE, n_values))
        if dtype == "F32":
            piece = ((piece + 0x7FFF + (piece >> 16 & 1)) >> 16).astype(np.uint16)
        exponent = np.uint16(0x7C00 if dtype == "F16" else 0x7F80)
        if (piece & exponent == exponent).any():
            raise _first_bad(name, shape, dtype, start, min(start + PIECE, n_values), read, limit=_LARGEST_KEPT)
        write(name, 2 * start, piece)


def _round_nibbles(
    name: str, shape: Shape, dtype: str, spec: BaseQuantSpec, read: Read, write: Write, factor: float
) -> None:
    scales, offset = _round_blocks(name, name, shape, dtype, spec, read, write), np.float32(0)
    if spec.double:
        offset, codes, maxima = _round_scales(scales, as_bitsandbytes=True)
        offset = _scaled(name, np.array([offset], np.float32), factor)[0]
        write(f"{name}.absmax", 0, codes)
        write(f"{name}.nested_absmax", 0, _scaled(name, maxima, factor))
        write(f"{name}.nested_quant_map", 0, dynamic_values())
    else:
        write(f"{name}.absmax", 0, _scaled(name, scales, factor))
    write(f"{name}.quant_map", 0, fp4_values() if spec.format == "fp4" else level_values("4"))
    state = encode_state(shape, _TORCH_NAMES[dtype], spec, offset=float(offset))
    write(state_name(name, spec), 0, np.frombuffer(state, np.uint8))


def _round_blocks(
    target: str, name: str, shape: Shape, dtype: str, spec: BaseQuantSpec, read: Read, write: Write
) -> Array:
    """Write the codes as `target`; the scales, float32."""
    bits, n_values, chunk = spec.bits or "4", math.prod(shape), chunk_size(spec.block)
    step = chunk * max(1, PIECE // chunk)
    scales = np.empty(-(-n_values // spec.block), np.float32)
    codes = np.empty(packed_bytes(min(step, n_values), bits), np.uint8)
    for start in range(0, n_values, step):
        stop = min(start + step, n_values)
        part = codes[: packed_bytes(stop - start, bits)]
        some = scales[start // spec.block : -(-stop // spec.block)]
        encode_patterns(
            read(start, stop), KINDS[dtype], bits, spec.block, some, part, fp4=spec.format == "fp4", threads=1
        )
        if not np.isfinite(some).all():
            raise _first_bad(name, shape, dtype, start, stop, read)
        write(target, packed_bytes(start, bits), part)
    return scales


def _round_scales(scales: Array, *, as_bitsandbytes: bool = False) -> tuple[np.float32, Array, Array]:
    """Their mean, codes uint8 and the codes' scales float32 (QLoRA, section 3); nearest levels, or bitsandbytes'."""
    offset = np.float32(row_kernels.mean_of(scales))
    codes = np.empty(scales.size, np.uint8)
    maxima = np.empty(-(-scales.size // SCALES_BLOCK), np.float32)
    if as_bitsandbytes:
        row_kernels.look_up_scales(scales, offset, row_kernels.scale_table(), codes, maxima)
    else:
        row_kernels.quantize_scales(scales, offset, row_kernels.scale_grid(), codes, maxima)
    return offset, codes, maxima


def _scaled(name: str, scales: Array, factor: float) -> Array:
    with np.errstate(over="ignore"):
        scaled: Array = scales * np.float32(factor)
    if not np.isfinite(scaled).all():
        raise GateError(f"{name}: weights are too large to count {factor:.6g} times, in float32")
    return scaled


def _round_rows(name: str, shape: Shape, dtype: str, read: Read, write: Write, factor: float) -> None:
    n_rows, n_columns = shape
    scales = np.empty(n_rows, np.float32)
    step = max(1, PIECE // n_columns)
    codes = np.empty(min(step, n_rows) * n_columns, np.int8)
    for row in range(0, n_rows, step):
        stop = min(row + step, n_rows)
        part, some = codes[: (stop - row) * n_columns], scales[row:stop]
        row_kernels.quantize_rows(read(row * n_columns, stop * n_columns), KINDS[dtype], n_columns, part, some)
        if not np.isfinite(some).all():
            raise _first_bad(name, shape, dtype, row * n_columns, stop * n_columns, read, limit=_BEYOND_HALF)
        write(name, row * n_columns, part)
    module = name.rpartition(".")[0]
    write(f"{module}.SCB", 0, _scaled(name, scales, factor))
    write(f"{module}.weight_format", 0, np.zeros(1, np.uint8))  # 0: rows, as they are


def _first_bad(
    name: str, shape: Shape, dtype: str, start: int, stop: int, read: Read, *, limit: float = math.inf
) -> GateError:
    """What to say of the first value from `start` on that is not finite, or not below `limit`."""
    values = _as_float(read(start, stop), dtype)
    first = int(np.flatnonzero(~(np.abs(values) < limit))[0])
    index = [int(position) for position in np.unravel_index(start + first, shape)]
    value = float(values[first])
    needed = "finite values are needed" if not math.isfinite(value) else f"values below {limit:g} are needed"
    return GateError(f"{name}: element {index} is {value:g}, {needed}")


def _as_float(patterns: Array, dtype: str) -> Array:
    if dtype == "F16":
        return patterns.view(np.float16).astype(np.float32)
    wide = patterns if dtype == "F32" else patterns.astype(np.uint32) << 16
    return wide.view(np.float32)
