"""Packed codes for scales that are given, in torch, a bounded piece at a time.

`codec.encode` takes its own scales and the nearest level, as fast as it can. What differs from that, scales from a
grid or levels that are drawn, is done for adapters only, and here.
"""

from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.quantization.blocks import nearest_codes
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.codec import encode_given
from fedlpp_cli.quantization.layout import Table
from fedlpp_cli.quantization.packing import pack
from fedlpp_cli.quantization.stochastic import draw_codes

# Bytes of codes end with a piece, whatever their width: 8 codes, 5 ternary ones, or 10 symmetric ones. The size is part
# of what a random stream is: with another one, other numbers would be drawn.
_PIECE: Final = 40 * 2**13


def encode_with(values: Tensor, scales: Tensor, bits: Table, block: int, *, key: bytes | None = None) -> Tensor:
    """Packed codes uint8 `(packed_bytes(n),)` of `values` `(n,)`, any float type.

    Args:
        values: finite.
        scales: float32 `(ceil(n / block),)`, finite. Weights beyond their scale get the outermost level.
        bits: width of the codes, not "full".
        block: values that share a scale.
        key: of the random stream that levels are drawn with; None takes the nearest level.
    """
    flat = values.detach().reshape(-1)
    if key is None and (packed := encode_given(flat, scales, bits, block)) is not None:
        return packed
    table = levels(bits).to(flat.device)
    pieces = []
    for part, start in enumerate(range(0, len(flat), _PIECE)):
        x = flat[start : start + _PIECE].float()
        c = scales[torch.arange(start, start + len(x), device=flat.device) // block]
        codes = nearest_codes(x, c, table) if key is None else draw_codes(_scaled(x, c), table, key, part)
        pieces.append(pack(codes, bits))
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8, device=flat.device)


def _scaled(x: Tensor, c: Tensor) -> Tensor:
    """The quotient z = x / c in float64, precise enough for chances; 0 where the scale is 0."""
    quotient = x.double() / torch.where(c == 0, torch.inf, c.double())
    return quotient.clamp(-1, 1)
