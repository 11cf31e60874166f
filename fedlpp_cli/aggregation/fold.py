"""The fold of a round: names outside, clients inside, float64, in the order of the updates' sha256.

Peak memory is a few tensors, whatever the number of clients; the order is that of the updates' content, so neither
file names nor the order in which updates came in can change a bit of the result.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.proxy_tensors import read_component, read_update
from fedlpp_cli.aggregation.magnitudes import Magnitudes
from fedlpp_cli.aggregation.optimizer_state import next_tensors
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader, UpdateHeader
from fedlpp_cli.records.specs import AggregateSpec, Weighting


def client_weights(n_examples: Sequence[int], *, weighting: Weighting, max_examples: int | None) -> list[float]:
    """Weights that sum to 1.

    Args:
        n_examples: what each client says it trained on.
        weighting: by examples, or all equal.
        max_examples: counts above it count as it, since clients report them themselves.
    """
    match weighting:
        case "examples":
            counts = [min(count, max_examples or count) for count in n_examples]
        case "equal":
            counts = [1] * len(n_examples)
    return [count / sum(counts) for count in counts]


@dataclass(slots=True)
class Fold:
    """A round ready to be folded: checked and open, updates in order of their sha256 with the norms they have.

    Squares and products are summed up while `values` runs.
    """

    master: TensorFile[MasterHeader]
    proxy: TensorFile[ProxyHeader]
    updates: Sequence[TensorFile[UpdateHeader]]
    norms: Sequence[float]
    spec: AggregateSpec
    weights: list[float] = field(init=False)
    products: list[float] = field(init=False)
    mean_squares: float = field(default=0.0, init=False)
    step_squares: float = field(default=0.0, init=False)
    magnitudes: Magnitudes = field(default_factory=Magnitudes, init=False)

    def __post_init__(self) -> None:
        counts = [update.header.spec.metrics.n_examples for update in self.updates]
        self.weights = client_weights(counts, weighting=self.spec.weighting, max_examples=self.spec.max_examples)
        self.products = [0.0] * len(self.updates)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Name and float32 value of every tensor of the next master, a component and then its state.

        Raises:
            GateError: a value that is not finite.
        """
        for name in components_of(self.master):
            theta = self.master.read(name).to(torch.float64)
            proxy = read_component(self.proxy, name).to(torch.float64)
            mean = self._mean(name)
            tensors = next_tensors(self.master, name, theta, proxy, mean, self.spec)
            self.mean_squares += float(mean.square().sum())
            self.step_squares += float((tensors[name] - theta).square().sum())
            if self.spec.server_optimizer != "sgd":
                self.magnitudes.add(mean)
            for tensor_name, value in tensors.items():
                rounded = value.to(torch.float32)
                check_finite(rounded, name=tensor_name)
                yield tensor_name, rounded

    def cosines(self) -> list[float | None]:
        """Cosine of each update with the mean, after `values`; None before, or where the mean is zero."""
        mean_norm = math.sqrt(self.mean_squares)
        return [
            product / (norm * mean_norm) if mean_norm else None
            for product, norm in zip(self.products, self.norms, strict=True)
        ]

    def _mean(self, name: str) -> Tensor:
        shape = self.master.tensors[name].shape
        mean = torch.zeros(shape, dtype=torch.float64)
        for update, weight in zip(self.updates, self.weights, strict=True):
            mean.add_(read_update(update, name, shape).to(torch.float64), alpha=weight)
        for index, update in enumerate(self.updates):
            self.products[index] += float((read_update(update, name, shape).to(torch.float64) * mean).sum())
        return mean
