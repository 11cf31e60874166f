"""Which parts a quantized tensor has in a file, and how large they are. Loads no torch.

A tensor of n elements in blocks of b has m = ceil(n / b) scales. Beside the packed `codes` U8 it has

| scale  | parts beside `codes` U8             |
|--------|-------------------------------------|
| fp32   | `scales` F32 `(m,)`                 |
| fp16   | `scales` F16 `(m,)`                 |
| double | `scale_codes` U8 `(m,)`             |
|        | `scale_scales` F32 `(ceil(m/256),)` |
|        | `scale_offset` F32 `(1,)`           |

With bits "full" there is one part, the tensor itself in F32, under the empty name.
"""

import math
from typing import Final

from fedlpp_cli.records.specs import Bits, QuantSpec

SCALES_BLOCK: Final = 256

# Shares of a block's largest weight that are tried for a fitting scale, largest first: with more levels the best one is
# nearer to the largest weight.
FITTED_SHARES: Final[dict[Bits, tuple[float, ...]]] = {
    "ternary": tuple(share / 20 for share in range(20, 5, -1)),
    "2": tuple(share / 20 for share in range(20, 5, -1)),
    "3": tuple(share / 20 for share in range(20, 10, -1)),
    "4": tuple(share / 20 for share in range(20, 14, -1)),
    "5": tuple(share / 20 for share in range(20, 16, -1)),
    "6": tuple(share / 20 for share in range(20, 16, -1)),
    "8": tuple(share / 20 for share in range(20, 16, -1)),
}

Shape = tuple[int, ...]


def packed_bytes(n_codes: int, bits: Bits) -> int:
    """How many bytes `n_codes` codes take."""
    return -(-n_codes // 5) if bits == "ternary" else -(-n_codes * int(bits) // 8)


def max_codes(n_bytes: int, bits: Bits) -> int:
    """How many codes fit into that many bytes: the other way round, up to the last byte's padding."""
    return 5 * n_bytes if bits == "ternary" else 8 * n_bytes // int(bits)


def parts_layout(shape: Shape, spec: QuantSpec) -> dict[str, tuple[str, Shape]]:
    """Name to (dtype, shape) of the parts of a tensor of that shape; `spec` is the tensor's own (`QuantSpec.of`)."""
    if spec.groups:
        raise AssertionError("a spec with groups says nothing of one tensor")
    if spec.bits == "full":
        return {"": ("F32", shape)}
    n_elements = math.prod(shape)
    n_blocks = -(-n_elements // spec.block)
    layout: dict[str, tuple[str, Shape]] = {"codes": ("U8", (packed_bytes(n_elements, spec.bits),))}
    match spec.scale:
        case "fp32":
            layout["scales"] = ("F32", (n_blocks,))
        case "fp16":
            layout["scales"] = ("F16", (n_blocks,))
        case "double":
            layout["scale_codes"] = ("U8", (n_blocks,))
            layout["scale_scales"] = ("F32", (-(-n_blocks // SCALES_BLOCK),))
            layout["scale_offset"] = ("F32", (1,))
    return layout
