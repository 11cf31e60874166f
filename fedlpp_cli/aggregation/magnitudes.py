"""How large the numbers of a pseudo-gradient are, without keeping them."""

import torch
from torch import Tensor

# The upper 16 bits of a float32: sign, 8 bits of exponent, 7 of mantissa. Bins are 2^-7 of their value wide.
_SHIFT = 16
_N_BINS = 2**15


class Magnitudes:
    """Counts absolute values by bins, 256 kB however many there are; order does not matter."""

    def __init__(self) -> None:
        self._counts = torch.zeros(_N_BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor, floating point and finite."""
        bits = values.to(torch.float32).abs().reshape(-1).view(torch.int32)
        self._counts += torch.bincount(bits >> _SHIFT, minlength=_N_BINS)

    def median(self) -> float | None:
        """To two digits, within 1 % in the range of normal float32; the lower one of two, None of nothing."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        index = int(torch.searchsorted(self._counts.cumsum(0), (total + 1) // 2))
        return float(f"{_edge(index):.2g}")


def _edge(index: int) -> float:
    """The bin's lowest value."""
    return float(torch.tensor([index << _SHIFT], dtype=torch.int32).view(torch.float32).item())
