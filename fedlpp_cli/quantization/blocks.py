"""Block-wise rounding to a codebook: the reference path, plain torch.

Letters: n elements of a tensor flattened row by row, b block size, m = ceil(n / b) blocks, the last may be short.
For each block c = max |x|; z = x / c; the code is the level nearest to z, the lower one of two equally near; the
value that comes back is level * c (FedLPP, arXiv 2406.10976, methods of its section 3).
"""

import torch
from torch import Tensor

from fedlpp_cli.quantization.codebooks import midpoints

# A block of zeros must not divide by zero. Same floor as bitsandbytes'.
_TINY = 1e-38


def quantize_blocks(values: Tensor, table: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes `(n,)` uint8 and scales `(m,)` float32 of `values` `(n,)`, any float type, finite."""
    flat = values.detach().reshape(-1).float()
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % block)).reshape(-1, block)
    scales = rows.abs().amax(1)
    codes = nearest_codes(rows, scales.unsqueeze(1), table)
    return codes.reshape(-1)[: len(flat)], scales


def nearest_codes(x: Tensor, c: Tensor, table: Tensor) -> Tensor:
    """Codes uint8 of the shape of `x` float32, for scales `c` float32 that broadcast to it.

    z is x times the float32 reciprocal of c, as bitsandbytes' kernels have it; against a division the last bit
    can differ, which matters only on a midpoint.
    """
    scaled = (x * (1.0 / c.clamp(min=_TINY))).clamp(-1, 1)
    return torch.bucketize(scaled, midpoints(table), out_int32=True).to(torch.uint8)


def dequantize_blocks(codes: Tensor, scales: Tensor, table: Tensor, block: int) -> Tensor:
    """Values `(n,)` float32: level times scale, in float32.

    Raises:
        ValueError: codes beyond the table, or a number of scales that does not fit.
    """
    check_scales(scales, len(codes), block)
    if len(codes) and int(codes.max()) >= len(table):
        raise ValueError(f"code {int(codes.max())} in a table of {len(table)} levels")
    return table[codes.long()] * scales.float().repeat_interleave(block)[: len(codes)]


def check_scales(scales: Tensor, n_codes: int, block: int) -> None:
    """Refuse a number of scales that does not fit.

    Raises:
        ValueError: saying how many there are.
    """
    if len(scales) != -(-n_codes // block):
        raise ValueError(f"{len(scales)} scales for {n_codes} codes in blocks of {block}")
