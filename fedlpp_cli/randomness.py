"""Every random stream has a name; equal names give equal streams, whatever else has been drawn."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def seed_for(*labels: object) -> int:
    """A seed in [0, 2^63) from labels such as (federation, round, client, "shuffle")."""
    text = "\0".join(str(label) for label in labels)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*labels: object) -> "torch.Generator":
    """A torch generator seeded by `seed_for`."""
    import torch

    return torch.Generator().manual_seed(seed_for(*labels))


def numpy_draws(*labels: object) -> "np.random.RandomState":
    """A numpy generator seeded by `seed_for`, of the old kind: its numbers are the same in all versions of numpy."""
    import numpy as np

    high, low = divmod(seed_for(*labels), 2**32)
    return np.random.RandomState([high, low])
