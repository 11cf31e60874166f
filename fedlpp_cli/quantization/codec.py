"""Values to packed codes and scales, and back, by the fastest way that a tensor's device and size allow.

Three ways, one result, bit for bit: compiled kernels for large tensors on the CPU; the reference path in torch
(`blocks.py`, `packing.py`) for small ones, where it is done before a compiler's library is loaded; and the same torch
code on a GPU. Symmetric codebooks have no kernels: they take the reference path, whatever the size.
"""

from typing import Final, TypeGuard

import torch
from torch import Tensor

from fedlpp_cli.quantization.blocks import check_scales, dequantize_blocks, quantize_blocks
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.layout import DIGIT_GROUPS, Table, packed_bytes
from fedlpp_cli.quantization.packing import check_tail, pack, unpack
from fedlpp_cli.records.specs import Bits

# From here on, kernels are worth loading numba for.
MIN_COMPILED: Final = 2**18
_PATTERNS: Final = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16, torch.float16: torch.uint16}


def has_kernels(bits: Table) -> TypeGuard[Bits]:
    """Whether the compiled kernels know that table."""
    return bits not in DIGIT_GROUPS


def encode(values: Tensor, bits: Table, block: int) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 `(packed_bytes(n),)` and scales float32 `(ceil(n / block),)` of `values` `(n,)`.

    Args:
        values: float32, bfloat16 or float16, on any device. A block with a value that is not finite has a scale that
            is not finite either.
        bits: width of the codes, not "full".
        block: values that share a scale.
    """
    flat = values.detach().reshape(-1)
    if flat.is_cpu and len(flat) >= MIN_COMPILED and flat.dtype in _PATTERNS and has_kernels(bits):
        return _encode_compiled(flat.contiguous(), bits, block)
    codes, scales = quantize_blocks(flat, levels(bits).to(flat.device), block)
    return pack(codes, bits), scales


def decode(
    packed: Tensor, scales: Tensor, n_values: int, bits: Table, block: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The values `(n_values,)`: level times scale in float32, then rounded to `dtype`.

    Raises:
        ValueError: sizes that do not fit, a byte that no codes make, or bits set behind the last code.
    """
    if packed.is_cpu and n_values >= MIN_COMPILED and has_kernels(bits):
        return _decode_compiled(packed, scales, n_values, bits, block, dtype)
    codes = unpack(packed, n_values, bits)
    return dequantize_blocks(codes, scales, levels(bits).to(packed.device), block).to(dtype)


def encode_given(flat: Tensor, scales: Tensor, bits: Table, block: int) -> Tensor | None:
    """Packed codes with given scales, by the compiled kernels; None where they are not for this tensor."""
    if not flat.is_cpu or len(flat) < MIN_COMPILED or flat.dtype not in _PATTERNS or not has_kernels(bits):
        return None
    return _encode_compiled(flat.contiguous(), bits, block, scales.contiguous())[0]


def _encode_compiled(flat: Tensor, bits: Bits, block: int, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    from fedlpp_cli.quantization import kernels
    from fedlpp_cli.quantization.compiled import encode_patterns

    kind = {torch.float32: kernels.FLOAT32, torch.bfloat16: kernels.BFLOAT16, torch.float16: kernels.FLOAT16}
    packed = torch.empty(packed_bytes(len(flat), bits), dtype=torch.uint8)
    scales = torch.empty(-(-len(flat) // block), dtype=torch.float32) if given is None else given
    patterns = flat.view(_PATTERNS[flat.dtype]).numpy()
    encode_patterns(
        patterns, kind[flat.dtype], bits, block, scales.numpy(), packed.numpy(), threads=torch.get_num_threads(),
        given=given is not None,
    )  # fmt: skip
    return packed, scales


def _decode_compiled(packed: Tensor, scales: Tensor, n: int, bits: Bits, block: int, dtype: torch.dtype) -> Tensor:
    from fedlpp_cli.quantization import kernels
    from fedlpp_cli.quantization.compiled import decode_patterns

    check_scales(scales, n, block)
    check_tail(packed, n, bits)
    direct = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    kind = kernels.BFLOAT16 if direct == torch.bfloat16 else kernels.FLOAT32
    out = torch.empty(n, dtype=direct)
    decode_patterns(
        packed.numpy(), scales.float().numpy(), bits, block, kind, out.view(_PATTERNS[direct]).numpy(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return out.to(dtype)
