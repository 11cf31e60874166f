"""Values to packed codes and scales, and back, by the fastest way that a tensor's device and size allow.

Three ways, one result, bit for bit: compiled kernels for large tensors on the CPU; the reference path in torch
(`blocks.py`, `packing.py`) for small ones, where it is done before a compiler's library is loaded; and the same torch
code on a GPU.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from fedlpp_cli.quantization.blocks import check_scales, dequantize_blocks, quantize_blocks
from fedlpp_cli.quantization.codebooks import levels, midpoints
from fedlpp_cli.quantization.layout import packed_bytes
from fedlpp_cli.quantization.packing import check_tail, pack, unpack
from fedlpp_cli.records.specs import Bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

# From here on, kernels are worth loading numba for.
MIN_COMPILED: Final = 2**18
# A thread that has less to do costs more than it saves.
_MIN_PER_THREAD: Final = 2**20
_CHUNK: Final = 4096
_PATTERNS: Final = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16, torch.float16: torch.uint16}


def encode(values: Tensor, bits: Bits, block: int) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 `(packed_bytes(n),)` and scales float32 `(ceil(n / block),)` of `values` `(n,)`.

    Args:
        values: float32, bfloat16 or float16, on any device. A block with a value that is not finite has a scale that
            is not finite either.
        bits: width of the codes, not "full".
        block: values that share a scale.
    """
    flat = values.detach().reshape(-1)
    if flat.is_cpu and len(flat) >= MIN_COMPILED and flat.dtype in _PATTERNS:
        return _encode_compiled(flat.contiguous(), bits, block)
    codes, scales = quantize_blocks(flat, levels(bits).to(flat.device), block)
    return pack(codes, bits), scales


def decode(
    packed: Tensor, scales: Tensor, n_values: int, bits: Bits, block: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The values `(n_values,)`: level times scale in float32, then rounded to `dtype`.

    Raises:
        ValueError: sizes that do not fit, a byte that no codes make, or bits set behind the last code.
    """
    if packed.is_cpu and n_values >= MIN_COMPILED:
        return _decode_compiled(packed, scales, n_values, bits, block, dtype)
    codes = unpack(packed, n_values, bits)
    return dequantize_blocks(codes, scales, levels(bits).to(packed.device), block).to(dtype)


def _encode_compiled(flat: Tensor, bits: Bits, block: int) -> tuple[Tensor, Tensor]:
    from fedlpp_cli.quantization import kernels

    kind = {torch.float32: kernels.FLOAT32, torch.bfloat16: kernels.BFLOAT16, torch.float16: kernels.FLOAT16}
    n = len(flat)
    packed = torch.empty(packed_bytes(n, bits), dtype=torch.uint8)
    scales = torch.empty(-(-n // block), dtype=torch.float32)
    source, into, beside = flat.view(_PATTERNS[flat.dtype]).numpy(), packed.numpy(), scales.numpy()
    width, chunk, table = _width(bits), chunk_size(block), _tables(bits)

    def work(start: int, stop: int) -> None:
        kernels.quantize_chunks(
            source[start:stop], kind[flat.dtype], table, width, block, chunk,
            beside[start // block : -(-stop // block)],
            into[packed_bytes(start, bits) : packed_bytes(stop, bits)],
        )  # fmt: skip

    _share(work, n, chunk)
    return packed, scales


def _decode_compiled(packed: Tensor, scales: Tensor, n: int, bits: Bits, block: int, dtype: torch.dtype) -> Tensor:
    from fedlpp_cli.quantization import kernels

    check_scales(scales, n, block)
    check_tail(packed, n, bits)
    direct = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    kind = kernels.BFLOAT16 if direct == torch.bfloat16 else kernels.FLOAT32
    out = torch.empty(n, dtype=direct)
    source, beside, target = packed.numpy(), scales.float().numpy(), out.view(_PATTERNS[direct]).numpy()
    width, chunk, table = _width(bits), chunk_size(block), levels(bits).numpy()

    def work(start: int, stop: int) -> None:
        is_sound = kernels.dequantize_chunks(
            source[packed_bytes(start, bits) : packed_bytes(stop, bits)],
            beside[start // block : -(-stop // block)],
            table, width, block, chunk, kind, target[start:stop],
        )  # fmt: skip
        if not is_sound:
            raise ValueError("a byte above 242 holds no five ternary codes")

    _share(work, n, chunk)
    return out.to(dtype)


def chunk_size(block: int) -> int:
    """How many values kernels take at a time: blocks, bytes and fives end together."""
    unit = math.lcm(block, 8 * 5)
    return unit * max(1, _CHUNK // unit)


def _share(work: Callable[[int, int], None], n_values: int, chunk: int) -> None:
    """Run `work` on ranges of whole chunks, on as many threads as torch may use."""
    n_threads = min(torch.get_num_threads(), max(1, n_values // _MIN_PER_THREAD))
    if n_threads == 1:
        work(0, n_values)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(lambda bounds: work(*bounds), _ranges(n_values, chunk, n_threads)):
            pass


def _ranges(n_values: int, chunk: int, count: int) -> Iterator[tuple[int, int]]:
    size = -(-n_values // (chunk * count)) * chunk
    return ((start, min(start + size, n_values)) for start in range(0, n_values, size))


def _width(bits: Bits) -> int:
    from fedlpp_cli.quantization.kernels import TERNARY

    return TERNARY if bits == "ternary" else int(bits)


@cache
def _tables(bits: Bits) -> "tuple[NDArray[Any], NDArray[Any], NDArray[Any]]":
    import numpy as np

    from fedlpp_cli.quantization.kernels import MAX_COUNTED, level_grid

    found = midpoints(levels(bits)).numpy()
    counted = np.full(MAX_COUNTED - 1, np.inf, np.float32)
    if len(found) >= MAX_COUNTED:
        return (counted, *level_grid(found))
    counted[: len(found)] = found
    return counted, np.empty(0, np.uint8), np.empty(0, np.float32)
