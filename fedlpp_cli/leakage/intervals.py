"""In which interval a weight lies, as its proxy tells; and what is left of it when several proxies tell.

x: a weight; c: the scale of its block; l_k: the levels; m_k: the midpoint of l_k and l_k+1. With code k

nearest     c m_k-1 <= x <= c m_k
stochastic  c l_k-1 <= x <= c l_k+1                  the code is one of the two levels around x

and beyond the outermost levels x ends where its block does, at the largest weight. What the scale itself was rounded
to widens this: fp16 and double quantization leave an interval of scales, "fit" cuts weights off, and "up" has only
the bound. Where a single weight of a block has an outermost code, it is the largest, and known as well as the scale is.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

from fedlpp_cli.adapters.drawn import is_drawn
from fedlpp_cli.adapters.proxy_tensors import read_component, read_parts, shape_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.blocks import check_scales
from fedlpp_cli.quantization.codebooks import dynamic_map, levels, midpoints
from fedlpp_cli.quantization.layout import FITTED_SHARES, SCALES_BLOCK, Shape
from fedlpp_cli.quantization.packing import unpack
from fedlpp_cli.quantization.tensors import stored_scales
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import QuantSpec

Bounds = tuple[Tensor, Tensor]

# The reciprocal, the product and the midpoint are each rounded to float32: three times 2^-24, and some room.
_SLACK: Final = 2.0**-22
# Below it a scale is not what weights are divided by (`quantization/blocks.py`).
_TINY: Final = 1e-38
_LARGEST_HALF: Final = 65520.0


class _Scales(NamedTuple):
    """What is known of each block, float64 `(m,)`.

    `low`, `high`: the scale that codes were taken with. `reach`: no weight is larger. `certain`: whether the largest
    weight has an outermost code for sure, and is not below `low`.
    """

    low: Tensor
    high: Tensor
    reach: Tensor
    certain: Tensor


def read_bounds(proxy: TensorFile[ProxyHeader], component: str) -> Bounds:
    """Low and high float32 of the component's shape, between which the owner's value lies, ends included.

    Raises:
        ArtifactError: no such component, or parts that do not fit together.
    """
    shape, spec = shape_of(proxy, component), proxy.header.spec.quantize.of(component)
    if is_drawn(proxy.header.spec, component):
        value = read_component(proxy, component)
        return value, value.clone()
    try:
        return cell(read_parts(proxy, component, shape), shape, spec)
    except ValueError as error:
        raise ArtifactError(f"{proxy.path}: component {component!r}: {error}") from None


def cell(parts: Mapping[str, Tensor], shape: Shape, spec: QuantSpec) -> Bounds:
    """Low and high float32 of that shape: `low <= x <= high` for every tensor x float32 that gives these parts.

    With bits "full" both are the value.

    Args:
        parts: of one tensor, as `quantize_tensor` makes and `layout.parts_layout` lists them.
        shape: of the tensor.
        spec: how it was rounded.

    Raises:
        ValueError: parts that no tensor of that shape gives.
    """
    if spec.bits == "full":
        value = parts[""].float().reshape(shape)
        return value, value.clone()
    table = levels(spec.bits)
    codes = unpack(parts["codes"], math.prod(shape), spec.bits).long()
    scales = _known_scales(parts, spec)
    ends = _drawn_ends(table) if spec.rounding == "stochastic" else _nearest_ends(table)
    low, high = _between(codes, ends, scales, spec.block)
    _pin_largest(low, high, codes, scales, len(table) - 1, spec.block)
    low, high = _outward(low, high)
    return low.reshape(shape), high.reshape(shape)


def estimate_drift(snapshots: Sequence[Tensor]) -> float:
    """How far a weight moves in one round, typically: the mean of |p_t+1 - p_t|, over weights and rounds.

    Where weights lie anywhere in their cells, a nearest level changes as often, times as far, as makes this the mean of
    the weights' own changes. With stochastic rounding it is mostly that of the draws, and too large. One snapshot: 0.

    Args:
        snapshots: what successive proxies say of one component, float32, oldest first.
    """
    changes = [float((newer.double() - older.double()).abs().mean()) for older, newer in pairwise(snapshots)]
    return sum(changes) / len(changes) if changes else 0.0


def intersect(bounds: Sequence[Bounds], drift: float) -> Tensor:
    """An estimate of the newest value, float32: the middle of what the intervals of several rounds leave of a weight.

    An interval that is k rounds older than the newest is widened by k times `drift` on both sides. Of each weight the
    first interval that leaves nothing is dropped, and all that are older.

    Args:
        bounds: low and high of each round, newest first, all of one shape; successive rounds.
        drift: how far a weight may move in a round, in the unit of the weights: 0 for weights that stay,
            `estimate_drift`, or a multiple of it.

    Raises:
        ValueError: no interval.
    """
    if not bounds:
        raise ValueError("no interval, at least one is needed")
    low, high = (end.double() for end in bounds[0])
    agrees = torch.ones_like(low, dtype=torch.bool)
    for age, (older_low, older_high) in enumerate(bounds[1:], start=1):
        narrowed_low = torch.maximum(low, older_low.double() - age * drift)
        narrowed_high = torch.minimum(high, older_high.double() + age * drift)
        agrees &= narrowed_low <= narrowed_high
        low, high = torch.where(agrees, narrowed_low, low), torch.where(agrees, narrowed_high, high)
    return ((low + high) / 2).float()


def _nearest_ends(table: Tensor) -> Bounds:
    """Of each code the ends of its interval of quotients x / c, float64 `(n_levels,)`; the outermost are infinite."""
    middle, infinite = midpoints(table).double(), torch.full((1,), math.inf, dtype=torch.float64)
    return torch.cat([-infinite, middle]), torch.cat([middle, infinite])


def _drawn_ends(table: Tensor) -> Bounds:
    """The same where a code is one of the two levels around the quotient."""
    wide, infinite = table.double(), torch.full((1,), math.inf, dtype=torch.float64)
    return torch.cat([-infinite, wide[:-1]]), torch.cat([wide[1:], infinite])


def _between(codes: Tensor, ends: Bounds, scales: _Scales, block: int) -> Bounds:
    """Low and high, float64 `(n,)`: the ends times the scale, wherever in its interval the scale is."""
    check_scales(scales.low, len(codes), block)
    c_low, c_high, reach = (each.repeat_interleave(block)[: len(codes)] for each in scales[:3])
    z = ends[0] - _SLACK * ends[0].abs(), ends[1] + _SLACK * ends[1].abs()
    # An infinite end at a scale of zero gives no number, and says nothing beyond the other products.
    products = torch.stack([end[codes] * c for end in z for c in (c_low, c_high)])
    products = products.nan_to_num(0.0, posinf=math.inf, neginf=-math.inf)
    return torch.maximum(products.amin(0), -reach), torch.minimum(products.amax(0), reach)


def _pin_largest(low: Tensor, high: Tensor, codes: Tensor, scales: _Scales, top: int, block: int) -> None:
    """In place: a single outermost code of a block, 0 or `top`, is that of its largest weight."""
    blocks = torch.arange(len(codes), device=codes.device) // block
    is_outer = (codes == 0) | (codes == top)
    is_single = torch.bincount(blocks[is_outer], minlength=len(scales.low)) == 1
    is_largest = is_outer & (is_single & scales.certain)[blocks]
    is_positive, least = codes == top, scales.low[blocks]
    low[is_largest & is_positive] = least[is_largest & is_positive]
    high[is_largest & ~is_positive] = -least[is_largest & ~is_positive]


def _known_scales(parts: Mapping[str, Tensor], spec: QuantSpec) -> _Scales:
    stored = stored_scales(parts, spec)
    if not stored.isfinite().all():
        raise ValueError("a scale is not finite")
    low, high = _before_storing(parts, spec)
    if spec.rounding == "stochastic":
        # Chances come from the scale as it was stored. Where that is zero, so are all codes, whatever the weights.
        is_exact = spec.scale == "fp32" and spec.scale_rounding == "nearest"
        used, is_zero = stored.double(), stored == 0
        certain = (used > 0) & is_exact
        return _Scales(used, torch.where(is_zero, math.inf, used), torch.where(high > 0, high, 0.0), certain)
    share = FITTED_SHARES[spec.bits][-1] if spec.scale_rounding == "fit" and spec.bits != "full" else 1.0
    reach = high if share == 1 else high / share * (1 + _SLACK)
    certain = (low > 10 * _TINY) & (spec.scale_rounding != "up")
    return _Scales(low.clamp(min=_TINY), high.clamp(min=_TINY), reach, certain)


def _before_storing(parts: Mapping[str, Tensor], spec: QuantSpec) -> Bounds:
    """Low and high float64 `(m,)` of the scales that were stored like this."""
    match spec.scale:
        case "fp32":
            exact = parts["scales"].double()
            return exact, exact
        case "fp16":
            stored = parts["scales"]
            # The bits of positive floats are ordered as the floats are.
            pattern = stored.view(torch.int16)
            below, above = (pattern - 1).clamp(min=0).view(torch.float16), (pattern + 1).view(torch.float16)
            middle = stored.double()
            return (below.double() + middle) / 2, ((above.double() + middle) / 2).clamp(max=_LARGEST_HALF)
        case "double":
            nested, offset = parts["scale_scales"].double(), parts["scale_offset"].double()
            exact = nested.clamp(min=_TINY)
            known = _Scales(exact, exact, nested, nested > 0)
            low, high = _between(parts["scale_codes"].long(), _nearest_ends(dynamic_map()), known, SCALES_BLOCK)
            room = _SLACK * (torch.maximum(low.abs(), high.abs()) + offset.abs())
            return (low + offset - room).clamp(min=0), (high + offset + room).clamp(min=0)


def _outward(low: Tensor, high: Tensor) -> Bounds:
    """To float32, never inward."""
    low32, high32 = low.float(), high.float()
    infinite = torch.tensor(math.inf)
    return (
        torch.where(low32.double() > low, torch.nextafter(low32, -infinite), low32),
        torch.where(high32.double() < high, torch.nextafter(high32, infinite), high32),
    )
