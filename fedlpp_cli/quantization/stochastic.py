"""Stochastic rounding: a draw between the two levels around a weight, right on average.

For levels l <= z <= h that are neighbours, the code is h with probability (z - l) / (h - l), so that the expected
value is z. No single copy is better for it (its error is larger than that of the nearest level), but the mean of
many copies of one weight is: pack's release ledger sees to it that there is only one.
"""

import hashlib
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES: Final = 4


def stream_key(label: str, name: str, values: Tensor) -> bytes:
    """32 bytes that name the random stream of one tensor: equal labels, names and values give equal bytes.

    The label stands in the proxy's public header. If it alone named the stream, every reader could draw the numbers
    again. A code whose number is known leaves its weight an interval half as wide (subtractive dither), and the
    intervals of several rounds intersect. So the bytes of the weights, which only the owner has, are part of the name.
    A guess of all weights of a tensor can be checked that way; of a tensor so small that they can all be guessed, codes
    give away what nearest ones would.

    Args:
        label: the seed's name.
        name: of the tensor.
        values: any shape, any float type; what counts is their float32 bytes, row by row.
    """
    array: NDArray[Any] = values.detach().float().contiguous().cpu().numpy().astype("<f4", copy=False)
    secret = hashlib.sha256(array.data if array.size else b"").digest()
    return hashlib.sha256(b"\0".join((b"stochastic rounding", label.encode(), name.encode(), secret))).digest()


def draw_codes(scaled: Tensor, table: Tensor, key: bytes, part: int) -> Tensor:
    """One of the two levels around each of `scaled`, as codes `(n,)` uint8. A level itself is always kept.

    Args:
        scaled: float64 `(n,)` in [-1, 1].
        table: ascending levels from -1 to 1.
        key: of the stream.
        part: which part of the stream; each part has numbers of its own.
    """
    wide = table.double()
    lower = (torch.searchsorted(wide, scaled, right=True) - 1).clamp(0, len(wide) - 2)
    below, above = wide[lower], wide[lower + 1]
    chance = (scaled - below) / (above - below)
    return (lower + (_uniforms(key, part, len(scaled)).to(scaled.device) < chance)).to(torch.uint8)


def _uniforms(key: bytes, part: int, count: int) -> Tensor:
    """Numbers in (0, 1) `(count,)` float64, 2^32 different ones, never 0 or 1.

    SHAKE-256 (FIPS 202) and not a generator for simulations: from codes that clients see, and guesses of the weights
    behind some of them, nobody can find the key or another number (a Mersenne twister's state follows from 624 of its
    outputs). Its bytes are the same with every version of every library.
    """
    import numpy as np

    stream = hashlib.shake_256(key + part.to_bytes(8, "little")).digest(_BYTES * count)
    return torch.from_numpy((np.frombuffer(stream, "<u4").astype(np.float64) + 0.5) / 2**32)
