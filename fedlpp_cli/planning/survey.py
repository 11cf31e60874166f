"""What each setting costs and does, before any round of it is played."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from msgspec.structs import replace

from fedlpp_cli.adapters.control_tensors import with_control
from fedlpp_cli.adapters.masks import Rows, draw_masks, mask_layout
from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.adapters.ranks import shapes_of_rank
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import GateError
from fedlpp_cli.evaluation.scored import mean_scores
from fedlpp_cli.leakage.averaging import compress
from fedlpp_cli.planning.allocation import allocate
from fedlpp_cli.planning.candidates import WIDTHS, Candidate, Grid, rounding_of
from fedlpp_cli.planning.inputs import Inputs
from fedlpp_cli.planning.probe import Bench, Change, Slope, Values, change, proxy_values
from fedlpp_cli.planning.sensitivity import sensitivities, tensor_groups
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.plans import GroupRow, PlanRow
from fedlpp_cli.records.specs import BaseQuantSpec, Bits, LoraSpec, QuantSpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.proxy_masks import masked
from fedlpp_cli.tasks.task import Example


@dataclass(slots=True, kw_only=True)
class Survey:
    """Settings, measured at one theta: the plain federation's adapter.

    `gain`: how far training brought the loss down, on the rows for gradients. `bases`: folder of what clients see of a
    private base. `client`: one of them, whose rows are `shard`; with masks it is its proxy that is looked at. `shapes`:
    of what proxies hold; `drawn`: what clients draw instead. `moving`: what they train, whose gradient counts.
    """

    bench: Bench
    federation: FederationSpec
    lora: LoraSpec
    shapes: Mapping[str, Shape]
    folder: Path
    theta: Values
    gain: float
    trade_off: float
    client: str
    shard: Sequence[Example]
    bases: Callable[[BaseQuantSpec], Path]
    drawn: Collection[str] = frozenset()
    moving: Collection[str] = frozenset()
    _whole: dict[bool, tuple[Values, Slope]] = field(default_factory=dict, init=False)

    def group_rows(self, grid: Grid) -> tuple[GroupRow, ...]:
        """What rounding single groups does, with the grid's first block and type of scale."""
        if grid.group_by == "none":
            return ()
        groups = tensor_groups(self.shapes, grid.group_by)
        return sensitivities(
            self.shapes, groups, widths_of(grid), lambda bits: _first(self.federation, grid, self.shapes, bits),
            self._change_of,
        )  # fmt: skip

    def measure(self, candidate: Candidate, row: PlanRow) -> PlanRow:
        """The row with what a proxy of that setting is worth; one that cannot be trained says so."""
        theta, whole = self._at(candidate.rank)
        folder = self.folder if candidate.base_quantize is None else self.bases(candidate.base_quantize)
        masks = self._masks(candidate.mask)
        visible = {name: torch.from_numpy(rows) for name, rows in masks.items()}
        values = proxy_values(theta, candidate.quantize, candidate.rank, self.drawn)
        values = masked(values, masks, scaling=candidate.mask.scaling)
        try:
            found = change(
                _only(visible, self._slope(folder, values)), whole,
                gain=self.gain, trade_off=self.trade_off, rank=candidate.rank,
            )  # fmt: skip
            proxy = self.bench.scored(folder, self.lora, values)
            tuned = self.bench.tuned(folder, self.lora, values, self.shard, self.federation.train, visible)
        except GateError as problem:
            return replace(row, skipped=f"{problem}"[:300])
        return replace(
            row,
            proxy=rounded(mean_scores(proxy)),
            tuned=rounded(mean_scores(tuned)),
            loss_increase=six_digits(found.loss_increase),
            gradient_change=six_digits(found.gradient_change),
            cosine=six_digits(found.cosine),
            score=six_digits(found.score),
        )

    def _masks(self, mask: MaskSpec) -> dict[str, Rows]:
        """Such as the client could have; those of the rounds follow from their first master."""
        if not mask.hides:
            return {}
        client = self.client if mask.client else None
        seed = self.federation.seed
        return draw_masks(self.shapes, mask, seed=seed, federation="plan", client=client, round_number=0)

    def _change_of(self, quantize: QuantSpec) -> Change:
        theta, whole = self._at(self.lora.rank)
        values = proxy_values(theta, quantize, self.lora.rank, self.drawn)
        return change(
            self._slope(self.folder, values), whole, gain=self.gain, trade_off=self.trade_off, rank=self.lora.rank
        )

    def _at(self, rank: int) -> tuple[Values, Slope]:
        """Theta and its slope; for lower ranks with the terms of the product in order, as combine svd has them."""
        is_cut = rank != self.lora.rank
        if is_cut not in self._whole:
            theta = compress(self.theta, self.lora.rank) if is_cut else self.theta
            self._whole[is_cut] = theta, self._slope(self.folder, theta)
        return self._whole[is_cut]

    def _slope(self, folder: Path, values: Values) -> Slope:
        found = self.bench.slope(folder, self.lora, values)
        kept = {name: value for name, value in found.gradient.items() if not self.moving or name in self.moving}
        return Slope(found.loss, kept)


def _only(visible: Values, slope: Slope) -> Slope:
    """The slope without what hidden rows would have: nobody trains them there."""
    seen = {
        name: torch.where(rows.unsqueeze(1), slope.gradient[name], 0.0)
        for name, rows in visible.items()
        if name in slope.gradient
    }
    return Slope(slope.loss, {**slope.gradient, **seen})


def sized(candidate: Candidate, inputs: Inputs, n_rounds: int, base_bytes: Callable[[BaseQuantSpec], int]) -> PlanRow:
    """The row of a setting, with what travels; of several rounds the largest update."""
    federation, lora = inputs.federation, inputs.federation.lora
    held = shapes_of_rank(inputs.held, candidate.rank)
    down = layout_bytes(proxy_layout(with_control(held, federation.train.control_variates), candidate.quantize))
    down += layout_bytes(mask_layout(held, candidate.mask)) if candidate.mask.hides else 0
    updates = inputs.updates(n_rounds, candidate.rank)
    return PlanRow(
        label=candidate.label(lora),
        quantize=candidate.quantize,
        mask=candidate.mask,
        rank=candidate.rank,
        combine=candidate.combine,
        base_quantize=candidate.base_quantize,
        for_comparison=candidate.for_comparison,
        bytes_down=down + (0 if candidate.base_quantize is None else base_bytes(candidate.base_quantize)),
        bytes_up=max(layout_bytes(proxy_layout(shapes, federation.update)) for shapes in updates),
    )


def mixed(
    rows: Sequence[GroupRow],
    grid: Grid,
    federation: FederationSpec,
    shapes: Mapping[str, Shape],
    like: Candidate,
    max_bytes: int | None,
) -> tuple[Candidate, ...]:
    """Settings with a width for each group: for the bytes of each of the grid's widths, halfway, and the target's.

    Args:
        rows: what rounding single groups does.
        grid: gives widths, and with its first ones block and type of scale.
        federation: gives what the grid does not name.
        shapes: component to shape, of the master's rank.
        like: of that rank; they differ from it in their widths alone.
        max_bytes: of an adapter; None for no target.
    """
    widths = widths_of(grid)
    uniform = [layout_bytes(proxy_layout(shapes, _first(federation, grid, shapes, bits))) for bits in widths]
    halfway = [(more + less) // 2 for more, less in pairwise(uniform)]
    limits = sorted({*uniform[1:-1], *halfway, *([] if max_bytes is None else [max_bytes])}, reverse=True)
    found: dict[Candidate, None] = {}
    for limit in limits if rows else ():
        groups = allocate(rows, widths, limit)
        if groups is None or len(set(groups.values())) == 1:
            continue
        widest = min(groups.values(), key=widths.index)
        narrower = {group: bits for group, bits in groups.items() if bits != widest}
        quantize = replace(_first(federation, grid, shapes, widest), groups=narrower)
        found[dataclasses.replace(like, quantize=quantize)] = None
    return tuple(found)


def widths_of(grid: Grid) -> tuple[Bits, ...]:
    """The grid's widths that round, widest first."""
    return tuple(bits for bits in WIDTHS if bits in grid.bits and bits != "full")


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """To six digits: the last bits of sums differ between machines."""
    return {name: six_digits(value) for name, value in scores.items()}


def _first(federation: FederationSpec, grid: Grid, shapes: Mapping[str, Shape], bits: Bits) -> QuantSpec:
    block = min(grid.blocks[0], max(math.prod(shape) for shape in shapes.values()))
    return rounding_of(federation, bits=bits, block=block, scale=grid.scales[0])
