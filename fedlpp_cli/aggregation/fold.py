"""The fold of a round: clip, let the rule decide how much each client counts, and fold the updates by windows.

Peak memory is a few tensors, whatever the number of clients; the order is that of the updates' content, so neither
file names nor the order in which updates came in can change a bit of the result.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.windows import read_values
from fedlpp_cli.aggregation.magnitudes import Magnitudes
from fedlpp_cli.aggregation.measures import Folding, StackMeasures
from fedlpp_cli.aggregation.optimizer_state import next_tensors
from fedlpp_cli.aggregation.rules import Plan, check_numbers, clip_factors, make_plan
from fedlpp_cli.aggregation.stack import Stack, Update
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.specs import AggregateSpec


@dataclass
class Fold:
    """A round ready to be folded: checked and open, updates in order of their sha256 with the norms they have.

    `reference` is the owner's own update and its norm, for the rule that compares with it. Squares and products are
    summed up while `values` runs.
    """

    master: TensorFile[MasterHeader]
    proxy: TensorFile[ProxyHeader]
    updates: Sequence[Update]
    norms: Sequence[float]
    spec: AggregateSpec
    threads: int = 1
    reference: tuple[Update, float] | None = None
    mean_squares: float = field(default=0.0, init=False)
    step_squares: float = field(default=0.0, init=False)
    magnitudes: Magnitudes = field(default_factory=Magnitudes, init=False)

    def __post_init__(self) -> None:
        check_numbers(self.spec, len(self.updates))
        counts = [update.header.spec.metrics.n_examples for update in self.updates]
        self._weights = client_weights(
            counts,
            weighting=self.spec.weighting,
            max_examples=self.spec.max_examples,
            max_share=self.spec.max_share,
        )
        self.clip_factors = clip_factors(self.spec, self.norms)
        self._folding: Folding | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Component to shape."""
        return components_of(self.master)

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each client counts in the result."""
        return self.plan.weights

    @cached_property
    def plan(self) -> Plan:
        """What the rule says of these updates; some rules read all of them for it, several times.

        Raises:
            GateError: as `make_plan`.
        """
        norms = [norm * factor for norm, factor in zip(self.norms, self.clip_factors, strict=True)]
        if self.reference is None:
            measures = StackMeasures(self._stack(self.updates), self.clip_factors, self.norms)
        else:
            update, norm = self.reference
            stack = self._stack([*self.updates, update])
            measures = StackMeasures(stack, [*self.clip_factors, 1.0], [*self.norms, norm])
        return make_plan(self.spec, self._weights, norms, measures)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Name and float32 value of every tensor of the next master, a component and then its state.

        Raises:
            GateError: a value that is not finite, or as `plan`.
        """
        stack = self._stack(self.updates)
        self._folding = Folding(stack, self.clip_factors, self.plan)
        for name, result in self._folding.results(self.shapes):
            mean = torch.from_numpy(result)
            theta = self.master.read(name).to(torch.float64)
            proxy = read_values(self.proxy, name, theta.shape, compiled=stack.is_compiled)
            tensors = next_tensors(self.master, name, theta, torch.from_numpy(proxy).to(torch.float64), mean, self.spec)
            self.mean_squares = self._folding.squares
            self.step_squares += float((tensors[name] - theta).square().sum())
            if self.spec.server_optimizer != "sgd":
                self.magnitudes.add(mean)
            for tensor_name, value in tensors.items():
                rounded = value.to(torch.float32)
                check_finite(rounded, name=tensor_name)
                yield tensor_name, rounded

    def cosines(self) -> list[float | None]:
        """Cosine of each update with the result, after `values`; None before, or where the result is zero."""
        mean_norm = math.sqrt(self.mean_squares)
        if self._folding is None or not mean_norm:
            return [None] * len(self.updates)
        return [
            float(product) / (norm * mean_norm)
            for product, norm in zip(self._folding.products, self.norms, strict=True)
        ]

    def _stack(self, updates: Sequence[Update]) -> Stack:
        return Stack(updates, self.shapes, threads=self.threads)
