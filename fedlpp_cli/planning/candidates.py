"""The settings that a plan compares: a grid over bits, blocks, scales, masks, ranks and formats of a private base.

Everything that the grid does not name is the federation file's: rounding and how scales are rounded, for instance.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from msgspec.structs import replace

from fedlpp_cli.adapters.proxy_tensors import check_groups
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.plans import GroupBy
from fedlpp_cli.records.specs import (
    FULL_PRECISION,
    BaseFormat,
    BaseQuantSpec,
    Bits,
    Combine,
    LoraSpec,
    QuantSpec,
    ScaleType,
)
from fedlpp_cli.records.tensor_groups import spell_widths

# Widest first; "full" is the federation that all are compared with.
WIDTHS: tuple[Bits, ...] = ("full", "8", "6", "5", "4", "3", "2", "ternary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is swept. `masks`, `ranks` and `base_formats` None: the federation's own alone.

    `masks`: shares of the factors' rows that are hidden from each client, 0 for none. A rank below the master's sends
    the first terms of the product `B A` alone. "none" among the base formats: clients hold the private base itself, to
    compare with.
    """

    bits: tuple[Bits, ...] = ("4", "3", "2", "ternary")
    blocks: tuple[int, ...] = (64, 256)
    scales: tuple[ScaleType, ...] = ("fp16",)
    masks: tuple[float, ...] | None = None
    ranks: tuple[int, ...] | None = None
    base_formats: tuple[BaseFormat | None, ...] | None = None
    group_by: GroupBy = "factor"

    def __post_init__(self) -> None:
        for name in ("bits", "blocks", "scales"):
            if not getattr(self, name):
                raise UsageError(f"--{name.removesuffix('s') if name != 'bits' else name}: at least one is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One setting. `base_quantize` None: clients hold the base as it is."""

    quantize: QuantSpec
    mask: MaskSpec = field(default_factory=MaskSpec)
    rank: int
    combine: Combine
    base_quantize: BaseQuantSpec | None
    for_comparison: bool = False

    def label(self, lora: LoraSpec) -> str:
        """For people: what tells it from the others."""
        quantize = self.quantize
        parts = [spell_widths(quantize.bits, quantize.groups)]
        if quantize.is_rounded:
            parts += [f"block {quantize.block}", *([quantize.scale] if quantize.scale != "fp16" else [])]
        parts += [f"server's mask {self.mask.server:g}"] if self.mask.server else []
        parts += [f"mask {self.mask.client:g}"] if self.mask.client else []
        parts += [f"rank {self.rank}"] if self.rank != lora.rank else []
        parts += [f"base {self.base_quantize.format}"] if self.base_quantize else []
        return ", ".join(parts) + (", base as it is" if self.for_comparison else "")

    def federation(self, of: FederationSpec) -> FederationSpec:
        """The federation with this setting."""
        return dataclasses.replace(
            of,
            private_base=self.base_quantize is not None,
            quantize=self.quantize,
            mask=self.mask,
            base_quantize=self.base_quantize or replace(of.base_quantize, mask=0.0),
            proxy_rank=self.rank,
            aggregate=replace(of.aggregate, combine=self.combine),
        )

    def refusal(self, of: FederationSpec) -> str | None:
        """Why its rounds could not be played, such as a lower rank's combine svd with masks; None where they could."""
        told = self.federation(of)
        try:
            told.check_rule()
            told.check_method()
        except UsageError as problem:
            return str(problem)
        return None


def candidates(grid: Grid, federation: FederationSpec, shapes: Mapping[str, Shape]) -> tuple[Candidate, ...]:
    """Every setting of the grid once, with one width for all tensors; then the federation's own, if it has several.

    Args:
        grid: what is swept.
        federation: gives what the grid does not name.
        shapes: component to shape, of the master's rank.

    Raises:
        UsageError: a rank or a format that this federation cannot have, or nothing but settings that it cannot.
    """
    rank = _rank_of(shapes)
    ranks = _checked_ranks(grid.ranks, rank, federation)
    bases = _bases(grid.base_formats, federation)
    largest = max(math.prod(shape) for shape in shapes.values())
    found: dict[Candidate, None] = {}
    axes = (bases, ranks, _masks(grid.masks, federation), grid.scales, grid.blocks, grid.bits)
    for base, one_rank, mask, scale, block, bits in product(*axes):
        quantize = rounding_of(federation, bits=bits, block=min(block, largest), scale=scale)
        own = federation.aggregate.combine
        combine: Combine = "svd" if grid.ranks and one_rank != rank and own == "factors" else own
        compared = federation.private_base and base is None
        one = Candidate(
            quantize=quantize, mask=mask, rank=one_rank, combine=combine, base_quantize=base, for_comparison=compared
        )
        found[one] = None
    refused = [one.refusal(federation) for one in found]
    if None not in refused:
        raise UsageError(str(refused[0]))
    if federation.quantize.groups:
        check_groups(shapes, federation.quantize)
        found[dataclasses.replace(next(iter(found)), quantize=federation.quantize)] = None
    return tuple(found)


def rounding_of(federation: FederationSpec, *, bits: Bits, block: int, scale: ScaleType) -> QuantSpec:
    """As the federation rounds, with one width for all tensors."""
    if bits == "full":
        return FULL_PRECISION
    try:
        return replace(federation.quantize, bits=bits, block=block, scale=scale, groups={})
    except ValueError as problem:
        raise UsageError(f"--bits {bits}: {problem}") from None


def _rank_of(shapes: Mapping[str, Shape]) -> int:
    return max((shape[0] for name, shape in shapes.items() if name.endswith(".lora_A")), default=1)


def _checked_ranks(ranks: tuple[int, ...] | None, full: int, federation: FederationSpec) -> tuple[int, ...]:
    if ranks is None:
        return (federation.proxy_rank or full,)
    for rank in ranks:
        if not 1 <= rank <= full:
            raise UsageError(f"--rank {rank}: the master's is {full}", hint=f"--rank 1 to --rank {full}")
    aggregate = federation.aggregate
    if min(ranks) < full and federation.train.control_variates:
        raise UsageError(f"--rank {min(ranks)}: control variates go with the master's rank, {full}")
    if min(ranks) < full and (aggregate.rule, aggregate.server_optimizer, aggregate.update_rule) != ("mean", "sgd", 1):
        raise UsageError(
            f"--rank {min(ranks)}: the owner's terms beyond it are learned by combine svd, which goes with rule mean, "
            "server optimizer sgd and update rule 1"
        )
    return ranks


def _masks(shares: tuple[float, ...] | None, federation: FederationSpec) -> tuple[MaskSpec, ...]:
    own = federation.mask
    if shares is None:
        return (own,)
    return tuple(replace(own, client=share, fresh=own.fresh and share > 0) for share in shares)


def _bases(
    formats: tuple[BaseFormat | None, ...] | None, federation: FederationSpec
) -> tuple[BaseQuantSpec | None, ...]:
    if not federation.private_base:
        if formats is not None:
            raise UsageError("--base-format: the base is public, clients hold it as it is")
        return (None,)
    if formats is None:
        return (federation.base_quantize,)
    try:
        return tuple(one and replace(federation.base_quantize, format=one) for one in formats)
    except ValueError as error:
        raise UsageError(f"--base-format: {error}") from None
