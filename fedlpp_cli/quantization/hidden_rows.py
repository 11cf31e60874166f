"""Rows taken out of a tensor that is rounded already: what is left is what it was, to the bit.

Were rows set to zero before rounding, their blocks would have other scales, and two masks would be two roundings of
the same weights. So codes are replaced by that of zero. The scale of a block that is hidden whole is replaced too: by
zero, or with double quantization by the mean of scales; that of a block with a row that is left stays, and is the
largest weight of the block, hidden or not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlpp_cli.quantization.codebooks import dynamic_map, levels
from fedlpp_cli.quantization.layout import Shape, table_of
from fedlpp_cli.quantization.packing import pack, unpack
from fedlpp_cli.records.specs import QuantSpec


def hide_rows(parts: Mapping[str, Tensor], visible: Tensor, shape: Shape, spec: QuantSpec) -> dict[str, Tensor]:
    """The parts of a tensor of that shape whose other rows are zero.

    Args:
        parts: what `quantize_tensor` made of it, on the CPU.
        visible: bool `(shape[0],)`.
        shape: of the tensor, two dimensions.
        spec: how it was rounded.
    """
    if spec.bits == "full":
        return {"": torch.where(visible.unsqueeze(1), parts[""], 0.0)}
    table, n_codes = table_of(spec), shape[0] * shape[1]
    kept = visible.repeat_interleave(shape[1])
    codes = torch.where(kept, unpack(parts["codes"], n_codes, table), _zero_of(levels(table)))
    blocks = torch.nn.functional.pad(kept, (0, -n_codes % spec.block)).reshape(-1, spec.block).any(1)
    hidden = dict(parts) | {"codes": pack(codes, table)}
    if spec.scale == "double":
        hidden["scale_codes"] = torch.where(blocks, parts["scale_codes"], _zero_of(dynamic_map()))
    else:
        hidden["scales"] = torch.where(blocks, parts["scales"], torch.zeros((), dtype=parts["scales"].dtype))
    return hidden


def _zero_of(table: Tensor) -> Tensor:
    return (table == 0).nonzero()[0, 0].to(torch.uint8)
