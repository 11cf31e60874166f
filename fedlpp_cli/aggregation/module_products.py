"""Products of updates, module by module: what a round makes of each, and how much of it is withheld.

One module's factors of all clients are in memory at a time. How many tensors the next master has must be known before
the first is written, so with "stack" and "residual" every module is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules, initial_value
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.withheld import withheld_a, withheld_b
from fedlpp_cli.aggregation.combine import Combined, Pair, Stacked, combine_products, stack_factors
from fedlpp_cli.aggregation.products import started_factors, trained_factors
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.aggregation.threads import one_thread
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec


@dataclass
class ModuleProducts:
    """A round whose products are averaged: updates in order of their sha256, their weights and clip factors."""

    master: TensorFile[MasterHeader]
    received: Sequence[Received]
    weights: Sequence[float]
    clip_factors: Sequence[float]
    spec: AggregateSpec

    @cached_property
    def withheld(self) -> dict[str, int]:
        """Module to rank of what the next master withholds of it; modules with nothing are left out."""
        if self.spec.combine == "svd":
            return {}
        found = {
            module: len(self.combined(module).withheld[1]) for module in factor_modules(components_of(self.master))
        }
        return {module: rank for module, rank in found.items() if rank}

    def combined(self, module: str) -> Combined:
        """What becomes of a module. Raises as `read_update`."""
        name = factor_a(module)
        spare = initial_value(name, self.master.tensors[name].shape, seed=self.master.header.spec.seed)
        with one_thread():
            return combine_products(self._stacked(module), self.spec.combine, spare.double())

    def _stacked(self, module: str) -> Stacked:
        started = started_factors(self.received, module)
        sums = dict.fromkeys(started, 0.0)
        trained: list[tuple[Pair, float]] = []
        for one, weight, factor in zip(self.received, self.weights, self.clip_factors, strict=True):
            sums[one.proxy.sha256] += weight
            trained.append((trained_factors(one, module, factor, started), weight))
        known = module in self.master.header.spec.withheld
        return stack_factors(
            (self._read(factor_b(module)), self._read(factor_a(module))),
            (self._read(withheld_b(module)), self._read(withheld_a(module))) if known else None,
            trained,
            [(pair, sums[sha256]) for sha256, pair in started.items()],
            rate=self.spec.server_learning_rate,
        )

    def _read(self, name: str) -> Tensor:
        return self.master.read(name).double()
