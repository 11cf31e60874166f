"""The compiled kernels on arrays: which table, which chunks, how many threads. Loads no torch."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.quantization import kernels
from fedlpp_cli.quantization.layout import packed_bytes
from fedlpp_cli.quantization.levels import fp4_values, level_values, midpoint_values
from fedlpp_cli.records.specs import Bits

Array = NDArray[Any]
Table = tuple[Array, Array, Array, Array]

# A thread that has less to do costs more than it saves.
_MIN_PER_THREAD: Final = 2**20
_CHUNK: Final = 4096
_NONE: Final = np.empty(0, np.uint8)


def encode_patterns(
    source: Array, kind: int, bits: Bits, block: int, scales: Array, packed: Array,
    *, threads: int, fp4: bool = False, given: bool = False,
) -> None:  # fmt: skip
    """Codes and scales of values given as bit patterns.

    Args:
        source: uint32 or uint16 `(n,)`.
        kind: kernels.FLOAT32, BFLOAT16 or FLOAT16.
        bits: width of the codes, not "full".
        block: values that share a scale.
        scales: float32 `(ceil(n / block),)`, written; infinity where a block has a value that is not finite.
        packed: uint8 `(packed_bytes(n, bits),)`, written.
        threads: how many may run.
        fp4: 4-bit codes of bitsandbytes' FP4 in place of NF4.
        given: `scales` are given, and not written.
    """
    chunk, table = chunk_size(block), _fp4_table() if fp4 else _table(bits)

    def work(start: int, stop: int) -> None:
        kernels.quantize_chunks(
            source[start:stop], kind, table, kernel_width(bits), block, chunk, given,
            scales[start // block : -(-stop // block)],
            packed[packed_bytes(start, bits) : packed_bytes(stop, bits)],
        )  # fmt: skip

    _share(work, source.size, chunk, threads)


def decode_patterns(
    packed: Array, scales: Array, bits: Bits, block: int, kind: int, out: Array, *, threads: int
) -> None:
    """Values as bit patterns: level times scale in float32, then rounded to `kind`.

    Args:
        packed: uint8 `(packed_bytes(n, bits),)`, its tail checked.
        scales: float32 `(ceil(n / block),)`, finite.
        bits: width of the codes, not "full".
        block: values that share a scale.
        kind: kernels.FLOAT32 or BFLOAT16.
        out: uint32 or uint16 `(n,)`, written.
        threads: how many may run.

    Raises:
        ValueError: a byte that no codes make.
    """
    chunk, table = chunk_size(block), level_values(bits)

    def work(start: int, stop: int) -> None:
        is_sound = kernels.dequantize_chunks(
            packed[packed_bytes(start, bits) : packed_bytes(stop, bits)],
            scales[start // block : -(-stop // block)],
            table, kernel_width(bits), block, chunk, kind, out[start:stop],
        )  # fmt: skip
        if not is_sound:
            raise ValueError("a byte above 242 holds no five ternary codes")

    _share(work, out.size, chunk, threads)


def chunk_size(block: int) -> int:
    """How many values kernels take at a time: blocks, bytes and fives end together."""
    unit = math.lcm(block, 8 * 5)
    return unit * max(1, _CHUNK // unit)


def kernel_width(bits: Bits) -> int:
    """What kernels call a width."""
    return kernels.TERNARY if bits == "ternary" else int(bits)


def _share(work: Callable[[int, int], None], n_values: int, chunk: int, threads: int) -> None:
    """Run `work` on ranges of whole chunks."""
    n_threads = min(threads, max(1, n_values // _MIN_PER_THREAD))
    if n_threads == 1:
        work(0, n_values)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(lambda bounds: work(*bounds), _ranges(n_values, chunk, n_threads)):
            pass


def _ranges(n_values: int, chunk: int, count: int) -> Iterator[tuple[int, int]]:
    size = -(-n_values // (chunk * count)) * chunk
    return ((start, min(start + size, n_values)) for start in range(0, n_values, size))


@cache
def _table(bits: Bits) -> Table:
    found = midpoint_values(level_values(bits))
    counted = np.full(kernels.MAX_COUNTED - 1, np.inf, np.float32)
    if len(found) >= kernels.MAX_COUNTED:
        return (counted, *kernels.level_grid(found), _NONE)
    counted[: len(found)] = found
    return counted, _NONE, np.empty(0, np.float32), _NONE


@cache
def _fp4_table() -> Table:
    """FP4 has its levels in another order than its codes, and zero twice; below the midpoint of the two is code 0."""
    order = np.argsort(fp4_values(), kind="stable")
    return midpoint_values(fp4_values()[order]), _NONE, np.empty(0, np.float32), order.astype(np.uint8)
