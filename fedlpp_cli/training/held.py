"""What the parts of a training hold from one step to the next, so that it can be kept and put back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedlpp_cli.records.checkpoints import Scalar


@dataclass(frozen=True, slots=True)
class Held:
    """Tensors, F32, F16, BF16 or U8, and plain values, by names: words of lower-case letters, with dots between."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Scalar] = field(default_factory=dict)


@runtime_checkable
class Resumable(Protocol):
    """What a part of a training is if it holds more than a new one of the same arguments would at that step.

    A gradient or sampler that draws its own noise, for one, holds its generator's state. What can be computed again is
    not held: the order of examples follows from the number of the step, the learning rate too, FedProx's anchor is the
    proxy, SCAFFOLD's variates are in the package and in the client's state.
    """

    def held(self) -> Held:
        """All of it. The tensors may be the part's own: they are read before the next step."""
        ...

    def put_back(self, held: Held) -> None:
        """Take what `held` gave in another process.

        Raises:
            ArtifactError: names, shapes or values that are not this part's.
        """
        ...
