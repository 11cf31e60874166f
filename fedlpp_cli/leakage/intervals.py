"""In which interval a weight lies, as its proxy tells; and what is left of it when several proxies tell.

x: a weight; c: the scale of its block; l_k: the levels; m_k: the midpoint of l_k and l_k+1. With code k

nearest     c m_k-1 <= x <= c m_k
stochastic  c l_k-1 <= x <= c l_k+1                  the code is one of the two levels around x

and beyond the outermost levels x ends where the block does, at its largest weight. What the scale itself was rounded
to widens this: fp16 and double quantization leave an interval of scales, "fit" cuts weights off, and "up" has only
the bound. Where one weight alone has an outermost code, it is the largest of its block, and it is c.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import read_parts, shape_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.codebooks import dynamic_map, levels, midpoints
from fedlpp_cli.quantization.layout import FITTED_SHARES, SCALES_BLOCK, Shape
from fedlpp_cli.quantization.packing import unpack
from fedlpp_cli.quantization.tensors import stored_scales
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import QuantSpec

Bounds = tuple[Tensor, Tensor]


def read_bounds(proxy: TensorFile[ProxyHeader], component: str) -> Bounds:
    """Low and high float32 of the component's shape, between which the owner's value lies, ends included.

    Raises:
        ArtifactError: no such component, or parts that do not fit together.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def estimate_drift(snapshots: Sequence[Tensor]) -> float:
    """How far a weight moves in one round, typically: the mean of |p_t+1 - p_t|, over weights and rounds.

    Where weights lie anywhere in their cells, a nearest level changes as often, times as far, as makes this the mean of
    the weights' own changes. With stochastic rounding it is mostly that of the draws, and too large. One snapshot: 0.

    Args:
        snapshots: what successive proxies say of one component, float32, oldest first.
    """
    raise NotImplementedError


def intersect(bounds: Sequence[Bounds], drift: float) -> Tensor:
    """An estimate of the newest value, float32: the middle of what the intervals of several rounds leave of each weight.

    An interval that is k rounds older than the newest is widened by k times `drift` on both sides. Of each weight the
    first interval that leaves nothing is dropped, and all that are older.

    Args:
        bounds: low and high of each round, newest first, all of one shape; successive rounds.
        drift: how far a weight may move in a round, in the unit of the weights: 0 for weights that stay,
            `estimate_drift`, or a multiple of it.

    Raises:
        ValueError: no interval.
    """
    raise NotImplementedError
