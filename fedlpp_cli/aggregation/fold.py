"""The fold of a round: clip, let the rule decide how much each client counts, and fold the updates by windows.

Peak memory is a few tensors, whatever the number of clients; the order is that of the updates' content, so neither
file names nor the order in which updates came in can change a bit of the result. Where products are averaged, factors
are folded too, for the report and for "residual", and each module's products come behind.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import takewhile
from operator import ne

import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, module_of
from fedlpp_cli.adapters.control_tensors import CONTROL, control_name
from fedlpp_cli.adapters.master_tensors import MOMENTS, NOISE_KEY, components_of, master_layout
from fedlpp_cli.adapters.trained import trained_shapes
from fedlpp_cli.adapters.windows import read_values
from fedlpp_cli.adapters.withheld import withheld_a, withheld_b
from fedlpp_cli.aggregation.client_noise import ClientNoise
from fedlpp_cli.aggregation.control_variates import control_step
from fedlpp_cli.aggregation.magnitudes import Magnitudes
from fedlpp_cli.aggregation.masks import sight_of
from fedlpp_cli.aggregation.measures import Folding, StackMeasures
from fedlpp_cli.aggregation.module_products import ModuleProducts
from fedlpp_cli.aggregation.optimizer_state import next_tensors, unmoved_tensors
from fedlpp_cli.aggregation.products import adapter_norms, squared_product
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.aggregation.rules import Plan, check_numbers, clip_factors, make_plan
from fedlpp_cli.aggregation.stack import Stack, Update
from fedlpp_cli.aggregation.threads import one_thread
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec


@dataclass
class Fold:
    """A round ready to be folded: checked and open, updates in order of their sha256.

    `reference` is the owner's own update, for the rule that compares with it. `rate_sum`: of the clients' learning
    rates, in a round with control variates; `spec` then says how many clients there are, whoever said it. Squares and
    products are summed up while `values` runs. `noise` protects clients, where `spec` asks for it.
    """

    master: TensorFile[MasterHeader]
    received: Sequence[Received]
    spec: AggregateSpec
    threads: int = 1
    reference: Received | None = None
    rate_sum: float | None = None
    noise: ClientNoise | None = None
    mean_squares: float = field(default=0.0, init=False)
    step_squares: float = field(default=0.0, init=False)
    withheld_squares: float = field(default=0.0, init=False)
    magnitudes: Magnitudes = field(default_factory=Magnitudes, init=False)

    def __post_init__(self) -> None:
        check_numbers(self.spec, len(self.received))
        self.control = control_step(self.spec, self.master.header.spec, self.rate_sum, len(self.received))
        if self.control is not None:
            self.spec = replace(self.spec, n_population=self.control.n_population)
        clips = self.spec if self.noise is None else replace(self.spec, clip_norm=self.noise.clip_norm)
        self.clip_factors = clip_factors(clips, self.norms)
        self._sight = sight_of(self.received, self.shapes)
        self._weights = self._shares()
        self._folding: Folding | None = None
        self._is_compiled = False
        self._factor_means: dict[str, Tensor] = {}

    @property
    def updates(self) -> list[Update]:
        """The updates themselves."""
        return [one.update for one in self.received]

    @property
    def norms(self) -> list[float]:
        """Of the updates, before clipping."""
        return [one.norm for one in self.received]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Component to shape."""
        return components_of(self.master)

    @cached_property
    def trained(self) -> dict[str, Shape]:
        """Component to shape of what the round trains, which is what its updates hold."""
        return trained_shapes(self.shapes, self.received[0].proxy.header.spec.factors)

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
            measures = StackMeasures(self._stack(self.received), self.clip_factors, self.norms)
        else:
            stack = self._stack([*self.received, self.reference])
            measures = StackMeasures(stack, [*self.clip_factors, 1.0], [*self.norms, self.reference.norm])
        return make_plan(self.spec, self._weights, norms, measures)

    @cached_property
    def products(self) -> ModuleProducts | None:
        """Where products are averaged: how."""
        if self.spec.combine == "factors":
            return None
        return ModuleProducts(self.master, self.received, self.weights, self.clip_factors, self.spec)

    @cached_property
    def withheld(self) -> dict[str, int]:
        """Module to rank of what the next master withholds; where factors are averaged, what this one does."""
        return dict(self.master.header.spec.withheld) if self.products is None else self.products.withheld

    @property
    def layout(self) -> Layout:
        """Name to (dtype, shape) of what `values` gives."""
        states = MOMENTS[self.spec.server_optimizer]
        states = states if self.control is None else (*states, CONTROL)
        return master_layout(self.shapes, states, self.withheld, has_noise=self.noise is not None)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every tensor of the next master, float32: a component, then its state and control variate.

        What the round does not train is as it was, to the bit. Behind them, where there is noise, its key, uint8.

        Raises:
            GateError: a value that is not finite, or as `plan`.
        """
        stack = self._stack(self.received)
        row_factors = self._sight.factors(self.weights) if self._sight and self.spec.mask_mean == "aware" else None
        self._folding, self._is_compiled = Folding(stack, self.clip_factors, self.plan, row_factors), stack.is_compiled
        left = iter(self.shapes)
        for name, result in self._folding.results(self.trained):
            yield from self._unmoved(takewhile(partial(ne, name), left))
            self.mean_squares = self._folding.squares
            if self.noise is not None:
                self.noise.add_to(name, result)
            mean = torch.from_numpy(result)
            if self.spec.server_optimizer != "sgd":
                self.magnitudes.add(mean)
            for tensor_name, value in self._next(name, mean).items():
                rounded = value.to(torch.float32)
                check_finite(rounded, name=tensor_name)
                yield tensor_name, rounded
        yield from self._unmoved(left)
        if self.products is None:
            yield from self._kept()
        if self.noise is not None:
            yield NOISE_KEY, torch.frombuffer(bytearray(self.noise.stream.key), dtype=torch.uint8)

    def cosines(self) -> list[float | None]:
        """Cosine of each update with the result, after `values`; None before, or where the result is zero."""
        mean_norm = math.sqrt(self.mean_squares)
        if self._folding is None or not mean_norm:
            return [None] * len(self.received)
        return [
            float(product) / (norm * mean_norm)
            for product, norm in zip(self._folding.products, self.norms, strict=True)
        ]

    def _shares(self) -> list[float]:
        """How much each client may count: a part of the whole, or with noise a part of those that are expected."""
        if self.noise is not None:
            return [1 / self.noise.n_expected] * len(self.received)
        return client_weights(
            self._counts(),
            weighting=self.spec.weighting,
            max_examples=self.spec.max_examples,
            max_share=self.spec.max_share,
        )

    def _counts(self) -> list[float]:
        """What weights are in proportion to, unless they are equal."""
        if self.spec.weighting == "product-norm":
            return adapter_norms(self.received, self.clip_factors)
        return [one.update.header.spec.metrics.n_examples for one in self.received]

    def _next(self, name: str, mean: Tensor) -> Mapping[str, Tensor]:
        """What is known of the next master once a component's updates are folded, float64."""
        module = module_of(name)
        names = factor_b(module), factor_a(module)
        if self.products is not None and name in names:
            self._factor_means[name] = mean
            if not all(one in self._factor_means for one in names):
                return {}
            b, a = (self._moved(one, self._factor_means.pop(one))[one] for one in names)
            return self._next_factors(self.products, module, b, a)
        tensors = self._moved(name, mean)
        self.step_squares += float((tensors[name] - self.master.read(name).double()).square().sum())
        return tensors

    def _moved(self, name: str, mean: Tensor) -> dict[str, Tensor]:
        theta = self.master.read(name).to(torch.float64)
        # The first update rule does not look at the proxy, and with the others all have the master's rank.
        is_first = self.spec.update_rule == 1
        proxy = theta if is_first else self._proxy_value(name, theta.shape)
        tensors = next_tensors(self.master, name, theta, proxy, mean, self.spec)
        if self.control is not None:
            sent = self.received[0].proxy
            tensors[control_name(name)] = self.control.next_tensor(self.master, sent, name, mean)
        return tensors

    def _proxy_value(self, name: str, shape: Shape) -> Tensor:
        values = read_values(self.received[0].proxy, name, shape, compiled=self._is_compiled)
        return torch.from_numpy(values).to(torch.float64)

    def _next_factors(self, products: ModuleProducts, module: str, b: Tensor, a: Tensor) -> dict[str, Tensor]:
        combined = products.combined(module)
        self.step_squares += (self._scaling * combined.moved) ** 2
        if combined.factors is not None:
            b, a = combined.factors
        return {factor_b(module): b, factor_a(module): a, **self._note_withheld(module, *combined.withheld)}

    def _unmoved(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """What the round does not train."""
        for name in names:
            yield from unmoved_tensors(self.master, name, self.spec).items()

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """What the master withholds, as it is."""
        for module in self.withheld:
            b, a = self.master.read(withheld_b(module)), self.master.read(withheld_a(module))
            self._note_withheld(module, b.double(), a.double())
            yield withheld_b(module), b
            yield withheld_a(module), a

    def _note_withheld(self, module: str, b: Tensor, a: Tensor) -> dict[str, Tensor]:
        if not len(a):
            return {}
        with one_thread():
            self.withheld_squares += self._scaling**2 * squared_product(b, a)
        return {withheld_b(module): b, withheld_a(module): a}

    @property
    def _scaling(self) -> float:
        return self.master.header.spec.model.lora.scaling

    def _stack(self, received: Sequence[Received]) -> Stack:
        return Stack(
            [one.update for one in received],
            self.trained,
            threads=self.threads,
            own_shapes=[one.shapes for one in received],
            sight=self._sight,
        )
