"""The quantizer's inner loops for the CPU, compiled: the bytes of `blocks.py` and `packing.py`, in one pass.

Numbers travel as their bit patterns, so that one loop serves float32, bfloat16 and float16, and so that the largest
magnitude, being the largest integer, shows NaN and infinity for nothing. A level is found without a branch: up to 16
levels by counting the midpoints below z; more by a grid of cells so small that none holds two midpoints (`level_grid`).

Work is cut into chunks in which blocks, bytes of the packed stream and groups of five ternary codes end together.
Threads take whole chunks and share nothing; the bytes do not depend on how many there are.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

FLOAT32: Final = 0
BFLOAT16: Final = 1
FLOAT16: Final = 2

MAX_COUNTED: Final = 16
TERNARY: Final = 0  # as a width: five codes a byte

_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)
_INFINITY: Final = np.uint32(0x7F800000)
_HALF_INFINITY: Final = np.uint32(0x7C00 << 13)
# float16's exponent, moved into float32's place, is 112 too small.
_HALF_TO_FLOAT: Final = np.float32(2.0**112)
_TINY: Final = np.float32(1e-38)

Array = NDArray[Any]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def compiled(function: FunctionT) -> FunctionT:
    """Compiled at the first call and kept on disk; runs without Python's lock."""
    return cast("FunctionT", njit(nogil=True, cache=True, error_model="numpy")(function))


@compiled
def quantize_chunks(
    source: Array, kind: int, table: tuple[Array, Array, Array, Array], width: int, block: int, chunk: int,
    given: bool, scales: Array, packed: Array,
) -> None:  # fmt: skip
    """Codes and scales of `source`, whole chunks but for the last.

    Args:
        source: bit patterns, uint32 or uint16 `(n,)`.
        kind: FLOAT32, BFLOAT16 or FLOAT16.
        table: midpoints `(15,)` filled up with infinity; the grid's codes and midpoints, empty for up to 16 levels;
            uint8 codes by rank where they are not the ranks, else empty.
        width: bits a code, or TERNARY.
        block: weights that share a scale.
        chunk: a multiple of `block`, 8 and 5.
        given: take `scales` as they are; weights beyond theirs get the outermost level.
        scales: float32 `(ceil(n / block),)`, written unless given; infinity where a value is not finite.
        packed: uint8, written.
    """
    codes = np.zeros(chunk, np.uint8)
    cells = np.empty(block, np.uint32)
    bits = np.empty(block, np.uint32)
    top = np.empty(1, np.uint32)
    values = bits.view(np.float32)
    per_chunk = chunk // 5 if width == TERNARY else chunk * width // 8
    tail = np.empty(per_chunk, np.uint8)
    for first in range(0, source.size, chunk):
        n_codes = min(chunk, source.size - first)
        for start in range(0, n_codes, block):
            size = min(block, n_codes - start)
            top[0] = load_block(source[first + start : first + start + size], kind, bits, values)
            if given:
                scale = scales[(first + start) // block]
                bound = max(scale, _TINY)
                for i in range(size):
                    values[i] = min(max(values[i], -bound), bound)
            else:
                scale = top.view(np.float32)[0]
                scales[(first + start) // block] = scale
            found = codes[start : start + size]
            if top[0] >= _INFINITY:
                found[:] = 0
            elif table[1].size == 0:
                _count(values[:size], scale, table[0], found)
            else:
                _look_up(values[:size], scale, table[1], table[2], cells, found)
        if table[3].size:
            for i in range(n_codes):
                codes[i] = table[3][codes[i]]
        here = first // chunk * per_chunk
        if n_codes == chunk:
            _pack(codes, width, packed[here : here + per_chunk])
        else:
            codes[n_codes:] = 0
            _pack(codes, width, tail)
            packed[here:] = tail[: packed.size - here]


@compiled
def load_block(source: Array, kind: int, bits: Array, values: Array) -> np.uint32:
    """Float32 values of a block; the bit pattern of the largest magnitude."""
    top = np.uint32(0)
    if kind == FLOAT16:
        for i in range(source.size):
            half = np.uint32(source[i])
            bits[i] = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((half & np.uint32(0x7FFF)) << np.uint32(13))
            top = max(top, bits[i] & _MAGNITUDE)
        if top >= _HALF_INFINITY:
            return _INFINITY
        for i in range(source.size):
            values[i] *= _HALF_TO_FLOAT
        top = np.uint32(0)
        for i in range(source.size):
            top = max(top, bits[i] & _MAGNITUDE)
        return top
    shift = np.uint32(16 if kind == BFLOAT16 else 0)
    for i in range(source.size):
        bits[i] = np.uint32(source[i]) << shift
    for i in range(source.size):
        top = max(top, bits[i] & _MAGNITUDE)
    return top


@compiled
def _count(values: Array, scale: np.float32, m: Array, codes: Array) -> None:
    """Codes among up to 16 levels: how many midpoints lie below."""
    inverse = np.float32(1) / max(scale, _TINY)
    m0, m1, m2, m3, m4, m5, m6, m7 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]
    m8, m9, m10, m11, m12, m13, m14 = m[8], m[9], m[10], m[11], m[12], m[13], m[14]
    for i in range(values.size):
        z = values[i] * inverse
        low = (z > m0) + (z > m1) + (z > m2) + (z > m3) + (z > m4) + (z > m5) + (z > m6) + (z > m7)
        high = (z > m8) + (z > m9) + (z > m10) + (z > m11) + (z > m12) + (z > m13) + (z > m14)
        codes[i] = np.uint8(low + high)


@compiled
def _look_up(values: Array, scale: np.float32, below: Array, edges: Array, cells: Array, codes: Array) -> None:
    """Codes among many levels: the cell's first code, and one more beyond the midpoint in it."""
    inverse = np.float32(1) / max(scale, _TINY)
    half = np.float32(below.size // 2 - 1)
    for i in range(values.size):
        values[i] = values[i] * inverse
        cells[i] = np.uint32(np.int32((values[i] + np.float32(1)) * half))
    for i in range(values.size):
        cell = cells[i]
        codes[i] = below[cell] + np.uint8(values[i] > edges[cell])


def level_grid(midpoints: Array, n_cells: int = 1024) -> tuple[Array, Array]:
    """For `_look_up`: how many midpoints lie in the cells before, uint8, and the one in it or infinity, float32.

    The cell of z grows with z whatever the rounding, so a midpoint in an earlier cell is below z and one in a later
    cell is not; that no cell holds two is checked here.
    """
    half = np.float32(n_cells // 2 - 1)
    cells = ((midpoints + np.float32(1)) * half).astype(np.int32)
    if len(np.unique(cells)) != len(midpoints):
        raise ValueError(f"{n_cells} cells are too few for {len(midpoints)} midpoints")
    below = np.searchsorted(cells, np.arange(n_cells)).astype(np.uint8)
    edges = np.full(n_cells, np.inf, np.float32)
    edges[cells] = midpoints
    return below, edges


@compiled
def _pack(codes: Array, width: int, out: Array) -> None:
    """`packing.pack` of a whole chunk."""
    if width == TERNARY:
        for i in range(out.size):
            c = codes[5 * i : 5 * i + 5]
            out[i] = c[0] * 81 + c[1] * 27 + c[2] * 9 + c[3] * 3 + c[4]
    elif width == 2:
        for i in range(out.size):
            out[i] = codes[4 * i] << 6 | codes[4 * i + 1] << 4 | codes[4 * i + 2] << 2 | codes[4 * i + 3]
    elif width == 3:
        _pack_eights(codes, 3, out)
    elif width == 4:
        for i in range(out.size):
            out[i] = codes[2 * i] << 4 | codes[2 * i + 1]
    elif width == 5:
        _pack_eights(codes, 5, out)
    elif width == 6:
        _pack_eights(codes, 6, out)
    else:
        out[:] = codes


@compiled
def _pack_eights(codes: Array, width: int, out: Array) -> None:
    """Eight codes into `width` bytes."""
    for i in range(out.size // width):
        word = np.uint64(0)
        for j in range(8):
            word = word << np.uint64(width) | np.uint64(codes[8 * i + j])
        for j in range(width):
            out[width * i + j] = np.uint8(word >> np.uint64(8 * (width - 1 - j)) & np.uint64(255))


@compiled
def dequantize_chunks(
    packed: Array, scales: Array, levels: Array, width: int, block: int, chunk: int, kind: int, out: Array
) -> bool:
    """Values from codes and scales: the level times the scale in float32, then rounded to `kind`, to nearest even.

    Args:
        packed: uint8.
        scales: float32 `(ceil(n / block),)`, finite.
        levels: float32, one for each code.
        width: bits a code, or TERNARY.
        block: weights that share a scale.
        chunk: a multiple of `block`, 8 and 5.
        kind: FLOAT32 or BFLOAT16.
        out: bit patterns, uint32 or uint16 `(n,)`, written.

    Returns:
        Whether every code has a level.
    """
    per_chunk = chunk // 5 if width == TERNARY else chunk * width // 8
    codes = np.empty(chunk, np.uint8)
    tail = np.zeros(per_chunk, np.uint8)
    level_bits = np.empty(levels.size, np.uint32)
    scaled = level_bits.view(np.float32)
    pattern = np.empty(1, np.uint32)
    value = pattern.view(np.float32)
    for first in range(0, out.size, chunk):
        n_codes = min(chunk, out.size - first)
        here = first // chunk * per_chunk
        if n_codes == chunk:
            _unpack(packed[here : here + per_chunk], width, codes)
        else:
            tail[: packed.size - here] = packed[here:]
            _unpack(tail, width, codes)
        top = np.uint8(0)
        for i in range(n_codes):
            top = max(top, codes[i])
        if top >= levels.size:
            return False
        for start in range(0, n_codes, block):
            size = min(block, n_codes - start)
            scale = scales[(first + start) // block]
            target = out[first + start : first + start + size]
            found = codes[start : start + size]
            if levels.size <= MAX_COUNTED:
                for j in range(levels.size):
                    scaled[j] = levels[j] * scale
                    level_bits[j] = _rounded(level_bits[j], kind)
                for i in range(size):
                    target[i] = level_bits[found[i]]
            else:
                for i in range(size):
                    value[0] = levels[found[i]] * scale
                    target[i] = _rounded(pattern[0], kind)
    return True


@compiled
def dequantize_bytes(codes: Array, scales: Array, levels: Array, block: int, out: Array) -> None:
    """Float32 values `(n,)` of 8-bit codes, one a byte: `dequantize_chunks` without packing to undo."""
    for start in range(0, out.size, block):
        scale = scales[start // block]
        target, found = out[start : start + block], codes[start : start + block]
        for i in range(target.size):
            target[i] = levels[found[i]] * scale


@compiled
def _rounded(bits: np.uint32, kind: int) -> np.uint32:
    """The pattern in bfloat16 of a finite float32 pattern; the same for FLOAT32."""
    if kind == BFLOAT16:
        return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return bits


@compiled
def _unpack(packed: Array, width: int, codes: Array) -> None:
    """The codes of a whole chunk."""
    if width == TERNARY:
        for i in range(packed.size):
            byte = packed[i]
            codes[5 * i] = byte // 81
            codes[5 * i + 1] = byte // 27 % 3
            codes[5 * i + 2] = byte // 9 % 3
            codes[5 * i + 3] = byte // 3 % 3
            codes[5 * i + 4] = byte % 3
    elif width == 2:
        for i in range(packed.size):
            byte = packed[i]
            codes[4 * i] = byte >> 6
            codes[4 * i + 1] = byte >> 4 & 3
            codes[4 * i + 2] = byte >> 2 & 3
            codes[4 * i + 3] = byte & 3
    elif width == 3:
        _unpack_eights(packed, 3, codes)
    elif width == 4:
        for i in range(packed.size):
            codes[2 * i] = packed[i] >> 4
            codes[2 * i + 1] = packed[i] & 15
    elif width == 5:
        _unpack_eights(packed, 5, codes)
    elif width == 6:
        _unpack_eights(packed, 6, codes)
    else:
        codes[:] = packed


@compiled
def _unpack_eights(packed: Array, width: int, codes: Array) -> None:
    """Eight codes from `width` bytes."""
    mask = np.uint64((1 << width) - 1)
    for i in range(packed.size // width):
        word = np.uint64(0)
        for j in range(width):
            word = word << np.uint64(8) | np.uint64(packed[width * i + j])
        for j in range(8):
            codes[8 * i + j] = np.uint8(word >> np.uint64(width * (7 - j)) & mask)
