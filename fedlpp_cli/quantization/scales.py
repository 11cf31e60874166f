"""Scales of blocks before codes: the largest weights, exactly or rounded up to a coarse grid.

An exact scale gives away the largest weight of each block at the precision of the scale: 1 of 64 weights at block
64. Rounded up to a grid of eight steps an octave, it tells that weight to one eighth of itself at best. Rounding down
would cut the weight off.
"""

from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.quantization.codebooks import levels, midpoints
from fedlpp_cli.quantization.layout import Table, fitted_shares

# Of float32's 23 explicit bits of mantissa 3 stay: 1, 1.125, ..., 1.875 times a power of two. fp16 holds each of them
# exactly from 2^-21 to 61440; below, its own steps are coarser than the grid.
_DROPPED: Final = 20
_CHUNK: Final = 2**20


def block_scales(values: Tensor, block: int) -> Tensor:
    """The largest absolute value of each block of `values` `(n,)`, any float type: float32 `(ceil(n / block),)`."""
    flat = values.detach().reshape(-1)
    whole_blocks = block * max(1, _CHUNK // block)
    return torch.cat([_maxima(piece.float(), block) for piece in torch.split(flat, whole_blocks)])


def round_up(scales: Tensor) -> Tensor:
    """The smallest number of the grid that is not below each scale; float32 of the same shape, 0 for 0.

    Law: `s <= round_up(s) < 1.125 s` for normal numbers. What lies above the largest number of the grid becomes
    infinite.

    Args:
        scales: float32, finite, not negative.
    """
    # The bits of positive floats are ordered as the floats are, and a carry out of the mantissa is the next octave.
    step = 2**_DROPPED
    return ((scales.view(torch.int32) + (step - 1)) & -step).view(torch.float32)


def fit(values: Tensor, bits: Table, block: int) -> Tensor:
    """Scales with the least squared error with the nearest levels, among shares of each block's largest weight.

    With few levels the largest weight is a bad scale: at 2 bits and block 64 normal weights lose 0.56 of their norm
    with it, and 0.38 with the best of these (ternary: 0.72 and 0.43).

    Args:
        values: `(n,)`, any float type, finite.
        bits: width of the codes, not "full".
        block: values that share a scale.

    Returns:
        float32 `(ceil(n / block),)`, on the device of `values`.
    """
    from fedlpp_cli.quantization.fit_kernel import fit_scales  # takes a compiler's library

    flat, table = values.detach().reshape(-1), levels(bits)
    scales = torch.empty(-(-len(flat) // block))
    shares = torch.tensor(fitted_shares(bits))
    whole_blocks = block * max(1, _CHUNK // block)
    for piece, part in zip(torch.split(flat, whole_blocks), torch.split(scales, whole_blocks // block), strict=True):
        x = piece.float().cpu().contiguous().numpy()
        fit_scales(x, block, shares.numpy(), table.numpy(), midpoints(table).numpy(), part.numpy())
    return scales.to(flat.device)


def _maxima(piece: Tensor, block: int) -> Tensor:
    return torch.nn.functional.pad(piece.abs(), (0, -len(piece) % block)).reshape(-1, block).amax(1)
