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
        return (padded * torch.tensor(_TRITS, dtype=torch.uint8, device=codes.device)).sum(1, dtype=torch.uint8)
    stream = ((codes.unsqueeze(1) >> _shifts(int(bits), codes)) & 1).reshape(-1)
    padded = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (padded << _shifts(8, padded)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, n_codes: int, bits: Bits) -> Tensor:
    """The `n_codes` codes `(n,)` uint8 in `packed` uint8.

    Raises:
        ValueError: wrong length, a byte that no codes make, or something behind the last code.
    """
    check_tail(packed, n_codes, bits)
    if bits == "ternary":
        if (packed > 242).any():
            raise ValueError("a byte above 242 holds no five ternary codes")
        trits = torch.tensor(_TRITS, dtype=torch.uint8, device=packed.device)
        return (packed.unsqueeze(1) // trits % 3).reshape(-1)[:n_codes]
    width = int(bits)
    stream = ((packed.unsqueeze(1) >> _shifts(8, packed)) & 1).reshape(-1)
    return (stream[: n_codes * width].reshape(-1, width) << _shifts(width, packed)).sum(1, dtype=torch.uint8)


def check_tail(packed: Tensor, n_codes: int, bits: Bits) -> None:
    """Refuse bytes of another length, or with anything behind the last code.

    Raises:
        ValueError: saying which.
    """
    if len(packed) != packed_bytes(n_codes, bits):
        raise ValueError(f"{len(packed)} bytes of codes, {packed_bytes(n_codes, bits)} are needed")
    last = int(packed[-1]) if n_codes else 0
    if bits == "ternary":
        if last % 3 ** (-n_codes % 5):
            raise ValueError("codes are set behind the last one")
    elif last % 2 ** (-n_codes * int(bits) % 8):
        raise ValueError("bits are set behind the last code")


def _shifts(width: int, like: Tensor) -> Tensor:
    return torch.arange(width - 1, -1, -1, dtype=torch.uint8, device=like.device)
