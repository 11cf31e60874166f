"""Which tensors a rounded weight of a private base becomes, and how large they are. Loads no torch.

A weight `W` `(out_features, in_features)` of n values in blocks of b, m = ceil(n / b):

| format               | tensors                                                                             |
|----------------------|-------------------------------------------------------------------------------------|
| nf4, fp4             | `W` U8 `(ceil(n/2), 1)`, `W.absmax` F32 `(m,)`, `W.quant_map` F32 `(16,)`,          |
|                      | `W.quant_state.bitsandbytes__nf4` U8: JSON                                          |
| ... with `double`    | `W.absmax` U8 `(m,)`, `W.nested_absmax` F32 `(ceil(m/256),)`,                       |
|                      | `W.nested_quant_map` F32 `(256,)`                                                   |
| int8                 | `W` I8 `(out, in)`, `<module>.SCB` F32 `(out,)`, `<module>.weight_format` U8 `()`   |
| nf2, nf3, nf5, nf6,  | `W.codes` and its scales, as `layout.py` has them for an adapter                    |
| ternary              |                                                                                     |

The first three are bitsandbytes' own (0.50), which transformers opens.
"""

import json
import math
from typing import Any, Final

from fedlpp_cli.quantization.layout import SCALES_BLOCK, Shape, parts_layout
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec

QUANT_STATE: Final = ".quant_state.bitsandbytes__"
# Room for any float32 in decimal: the state is as long as its numbers, and its place is fixed before they are known.
_OFFSET_CHARS: Final = 26

Layout = dict[str, tuple[str, Shape]]


def packed_spec(spec: BaseQuantSpec) -> QuantSpec:
    """The same rounding in an adapter's words.

    Raises:
        ValueError: a format in bitsandbytes' layout.
    """
    if spec.bits is None:
        raise ValueError(f"{spec.format} is not packed")
    return QuantSpec(bits=spec.bits, block=spec.block, scale="double" if spec.double else "fp32")


def weight_layout(weight: str, shape: Shape, spec: BaseQuantSpec) -> Layout:
    """Name to (dtype, shape) of everything that the weight becomes.

    Args:
        weight: its name.
        shape: `(out_features, in_features)`; any shape where the format is packed.
        spec: how it is rounded.
    """
    if spec.bits is not None:
        return {f"{weight}.{part}": kind for part, kind in parts_layout(shape, packed_spec(spec)).items()}
    if spec.format == "int8":
        module = weight.rpartition(".")[0]
        return {
            weight: ("I8", shape),
            f"{module}.SCB": ("F32", (shape[0],)),
            f"{module}.weight_format": ("U8", ()),
        }
    n_values = math.prod(shape)
    n_blocks = -(-n_values // spec.block)
    layout: Layout = {
        weight: ("U8", (-(-n_values // 2), 1)),
        f"{weight}.absmax": ("U8" if spec.double else "F32", (n_blocks,)),
        f"{weight}.quant_map": ("F32", (16,)),
        state_name(weight, spec): ("U8", (len(encode_state(shape, "bfloat16", spec, offset=0.0)),)),
    }
    if spec.double:
        layout[f"{weight}.nested_absmax"] = ("F32", (-(-n_blocks // SCALES_BLOCK),))
        layout[f"{weight}.nested_quant_map"] = ("F32", (256,))
    return layout


def state_name(weight: str, spec: BaseQuantSpec) -> str:
    """Name of the tensor that describes a 4-bit weight to bitsandbytes."""
    return f"{weight}{QUANT_STATE}{spec.format}"


def encode_state(shape: Shape, dtype: str, spec: BaseQuantSpec, *, offset: float) -> bytes:
    """That tensor's bytes, as many for every `dtype` and `offset`.

    Args:
        shape: of the weight.
        dtype: what it is when it is no longer rounded, as torch spells it.
        spec: how it is rounded.
        offset: mean of the scales; 0 unless they are quantized too.
    """
    state: dict[str, Any] = {"quant_type": spec.format, "blocksize": spec.block, "dtype": dtype, "shape": list(shape)}
    if spec.double:
        state |= {"nested_blocksize": SCALES_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    spare = len("bfloat16") - len(dtype) + (_OFFSET_CHARS - len(repr(offset)) if spec.double else 0)
    return json.dumps(state).encode() + b" " * spare
