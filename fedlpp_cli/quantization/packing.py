"""Codes to bytes and back.

k bits: one stream, the first code in the highest bits, so that 4-bit codes lie as bitsandbytes lays them. Ternary:
five codes a byte, base 3, the first code the most significant. The 2^k + 1 codes of a symmetric codebook: as many as
`layout.DIGIT_GROUPS` says together in one number of that base and so many bytes, both the most significant first. What
the last byte, or group, has left over is zero, and checked to be zero: no file carries hidden bits.
"""

from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.quantization.layout import DIGIT_GROUPS, Table, packed_bytes
from fedlpp_cli.quantization.levels import level_values

_TRITS: Final = (81, 27, 9, 3, 1)


def pack(codes: Tensor, bits: Table) -> Tensor:
    """Codes `(n,)` uint8 to bytes `(packed_bytes(n),)` uint8."""
    if bits in DIGIT_GROUPS:
        return _pack_digits(codes, bits)
    if bits == "ternary":
        padded = torch.nn.functional.pad(codes, (0, -len(codes) % 5)).reshape(-1, 5)
        return (padded * torch.tensor(_TRITS, dtype=torch.uint8, device=codes.device)).sum(1, dtype=torch.uint8)
    stream = ((codes.unsqueeze(1) >> _shifts(int(bits), codes)) & 1).reshape(-1)
    padded = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).reshape(-1, 8)
    return (padded << _shifts(8, padded)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, n_codes: int, bits: Table) -> Tensor:
    """The `n_codes` codes `(n,)` uint8 in `packed` uint8.

    Raises:
        ValueError: wrong length, a byte that no codes make, or something behind the last code.
    """
    check_tail(packed, n_codes, bits)
    if bits in DIGIT_GROUPS:
        return _unpack_digits(packed, n_codes, bits)
    if bits == "ternary":
        if (packed > 242).any():
            raise ValueError("a byte above 242 holds no five ternary codes")
        trits = torch.tensor(_TRITS, dtype=torch.uint8, device=packed.device)
        return (packed.unsqueeze(1) // trits % 3).reshape(-1)[:n_codes]
    width = int(bits)
    stream = ((packed.unsqueeze(1) >> _shifts(8, packed)) & 1).reshape(-1)
    return (stream[: n_codes * width].reshape(-1, width) << _shifts(width, packed)).sum(1, dtype=torch.uint8)


def check_tail(packed: Tensor, n_codes: int, bits: Table) -> None:
    """Refuse bytes of another length, or with anything behind the last code.

    Raises:
        ValueError: saying which.
    """
    if len(packed) != packed_bytes(n_codes, bits):
        raise ValueError(f"{len(packed)} bytes of codes, {packed_bytes(n_codes, bits)} are needed")
    last = int(packed[-1]) if n_codes else 0
    if bits in DIGIT_GROUPS:
        per_group, n_bytes = DIGIT_GROUPS[bits]
        number = int.from_bytes(packed[-n_bytes:].cpu().numpy().tobytes(), "big") if n_codes else 0
        if number % len(level_values(bits)) ** (-n_codes % per_group):
            raise ValueError("codes are set behind the last one")
    elif bits == "ternary":
        if last % 3 ** (-n_codes % 5):
            raise ValueError("codes are set behind the last one")
    elif last % 2 ** (-n_codes * int(bits) % 8):
        raise ValueError("bits are set behind the last code")


def _pack_digits(codes: Tensor, table: Table) -> Tensor:
    per_group, n_bytes = DIGIT_GROUPS[table]
    digits = torch.nn.functional.pad(codes, (0, -len(codes) % per_group)).reshape(-1, per_group).long()
    numbers = (digits * _powers(len(level_values(table)), per_group, codes)).sum(1, keepdim=True)
    return (numbers // _powers(256, n_bytes, codes) % 256).to(torch.uint8).reshape(-1)


def _unpack_digits(packed: Tensor, n_codes: int, table: Table) -> Tensor:
    (per_group, n_bytes), base = DIGIT_GROUPS[table], len(level_values(table))
    numbers = (packed.reshape(-1, n_bytes).long() * _powers(256, n_bytes, packed)).sum(1, keepdim=True)
    if (numbers >= base**per_group).any():
        raise ValueError(f"{n_bytes} bytes that hold no {per_group} codes of {base}")
    return (numbers // _powers(base, per_group, packed) % base).to(torch.uint8).reshape(-1)[:n_codes]


def _powers(base: int, count: int, like: Tensor) -> Tensor:
    return torch.tensor([base**place for place in reversed(range(count))], device=like.device)


def _shifts(width: int, like: Tensor) -> Tensor:
    return torch.arange(width - 1, -1, -1, dtype=torch.uint8, device=like.device)
