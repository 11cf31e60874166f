"""Rounding of an update with error feedback: what rounding takes from one update is added to the next one.

With v = delta + e, where e is the residual of the round before, the client sends Q(v) and keeps e' = v - Q(v). Over
any number of rounds the sum of what was sent, plus the last residual, is the sum of the deltas: rounding delays and
loses nothing, whatever Q is, and biased ones converge too as long as Q(v) takes a fixed share of v (Seide et al. 2014,
"1-bit stochastic gradient descent", Interspeech; Karimireddy et al. 2019, arXiv 1901.09847). Rounding to the nearest
of levels that are scaled to a block's largest value does: that value is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import tensor_name
from fedlpp_cli.errors import GateError
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor
from fedlpp_cli.records.specs import QuantSpec


@dataclass(frozen=True, slots=True)
class RoundedUpdate:
    """An update as it is sent, and what is not.

    `parts`: the tensors of the file, by name. By component, float32: `values`, which is what the owner reads out of
    them, and `residual`, which the client keeps.
    """

    parts: dict[str, Tensor]
    values: dict[str, Tensor]
    residual: dict[str, Tensor]


def round_update(
    delta: Mapping[str, Tensor], spec: QuantSpec, residual: Mapping[str, Tensor] | None = None
) -> RoundedUpdate:
    """Add the residual, round, and say what is left.

    In full precision the residual is sent whole and nothing is left: zeros, to the bit.

    Args:
        delta: trained adapter minus proxy, float32 by component.
        spec: how the package asks for updates.
        residual: of this client's earlier rounds, float32 of the same shapes; what is not in it has none.

    Raises:
        GateError: a value that is not finite, or too large for an fp16 scale.
    """
    result = RoundedUpdate({}, {}, {})
    for name, value in delta.items():
        # The sum in float64: what float32 would round off goes into the residual too.
        wanted = value.double() + residual[name].double() if residual and name in residual else value.double()
        parts = _quantize(wanted.float(), spec, name=name)
        sent = dequantize_tensor(parts, tuple(value.shape), spec)
        result.parts.update({tensor_name(name, part): tensor for part, tensor in parts.items()})
        result.values[name] = sent
        result.residual[name] = torch.zeros_like(sent) if spec.bits == "full" else (wanted - sent.double()).float()
    return result


def round_visible(
    delta: Mapping[str, Tensor],
    spec: QuantSpec,
    residual: Mapping[str, Tensor],
    visible: Mapping[str, Tensor],
) -> RoundedUpdate:
    """As `round_update`; the residual of rows that this package hides is kept for a round that does not hide them.

    Args:
        delta: zero in hidden rows.
        spec: how the package asks for updates.
        residual: of this client's earlier rounds, as `round_update`.
        visible: component to which of its rows are there, bool `(rows,)`; a component without masks is not in it.
            Those that do not travel now are not looked at.
    """
    masks = {name: rows.unsqueeze(1) for name, rows in visible.items() if name in delta and name in residual}
    due = {name: value.where(masks[name], 0.0) if name in masks else value for name, value in residual.items()}
    rounded = round_update(delta, spec, due)
    for name, mask in masks.items():
        rounded.residual[name] = rounded.residual[name].where(mask, residual[name])
    return rounded


def _quantize(values: Tensor, spec: QuantSpec, *, name: str) -> dict[str, Tensor]:
    try:
        return quantize_tensor(values, spec, name=name)
    except GateError as problem:
        # quantize_tensor speaks to the owner, whose option it is.
        hint = "ask the owner for pack --update-scale fp32" if problem.hint else None
        raise GateError(f"{problem}; nothing was written", hint=hint) from None
