"""What the tensors of a client's checkpoint are called; `training/resuming.py` says what they hold. Loads no torch."""

from collections.abc import Mapping
from typing import Final

from fedlpp_cli.artifact.tensor_header import TensorInfo

ADAPTER: Final = "adapter"
OPTIMIZER: Final = "optimizer"
GENERATOR: Final = "generator"


def adapter_parameters(tensors: Mapping[str, TensorInfo]) -> int:
    """How many numbers of it are the adapter's."""
    return sum(info.n_elements for name, info in tensors.items() if name.startswith(f"{ADAPTER}."))
