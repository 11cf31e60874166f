"""Codes to bytes and back.

k bits: one stream, the first code in the highest bits, so that 4-bit codes lie as bitsandbytes lays them. Ternary:
five codes a byte, base 3, the first code the most significant. What the last byte has left over is zero, and
checked to be zero: no file carries hidden bits.
"""

from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.quantization.layout import packed_bytes
from fedlpp_cli.records.specs import Bits

_TRITS: Final = (81, 27, 9, 3, 1)


def pack(codes: Tensor, bits: Bits) -> Tensor:
    """Codes `(n,)` uint8 to bytes `(packed_bytes(n),)` uint8."""
    if bits == "ternary":
        padded = torch.nn.functional.pad(codes, (0, -len(codes) % 5)).reshape(-1, 5)
        return (padded * torch.tensor(_TRITS, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    stream = ((codes.unsqueeze(1) >> _shifts(int(bits))) & 1).reshape(-1)
    padded = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (padded << _shifts(8)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, n_codes: int, bits: Bits) -> Tensor:
    """The `n_codes` codes `(n,)` uint8 in `packed` uint8.

    Raises:
        ValueError: wrong length, a byte that no codes make, or bits set behind the last code.
    """
    if len(packed) != packed_bytes(n_codes, bits):
        raise ValueError(f"{len(packed)} bytes of codes, {packed_bytes(n_codes, bits)} are needed")
    if bits == "ternary":
        codes = packed.unsqueeze(1) // torch.tensor(_TRITS, dtype=torch.uint8) % 3
        if (packed > 242).any():
            raise ValueError("a byte above 242 holds no five ternary codes")
        codes = codes.reshape(-1)
    else:
        width = int(bits)
        stream = ((packed.unsqueeze(1) >> _shifts(8)) & 1).reshape(-1)
        if stream[n_codes * width :].any():
            raise ValueError("bits are set behind the last code")
        codes = (stream[: n_codes * width].reshape(-1, width) << _shifts(width)).sum(1, dtype=torch.uint8)
    if codes[n_codes:].any():
        raise ValueError("codes are set behind the last one")
    return codes[:n_codes]


def _shifts(width: int) -> Tensor:
    return torch.arange(width - 1, -1, -1, dtype=torch.uint8)
