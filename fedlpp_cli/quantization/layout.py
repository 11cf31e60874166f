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
from typing import Final, Literal, cast

from fedlpp_cli.records.specs import Bits, QuantSpec

# Which levels there are, and so how codes are packed: a width of NF-k, or of FedQSN's symmetric codebook.
Table = Bits | Literal["symmetric-2", "symmetric-3", "symmetric-4", "symmetric-5", "symmetric-6"]

# Of the symmetric codebooks, with 2^k + 1 levels: how many codes lie together in how many bytes. A window of 320 codes
# has whole groups, and a group fits into an int64.
DIGIT_GROUPS: Final[dict[Table, tuple[int, int]]] = {
    "symmetric-2": (10, 3),
    "symmetric-3": (5, 2),
    "symmetric-4": (5, 3),
    "symmetric-5": (10, 7),
    "symmetric-6": (5, 4),
}

SCALES_BLOCK: Final = 256

# Shares of a block's largest weight that are tried for a fitting scale, largest first: with more levels the best one is
# nearer to the largest weight.
FITTED_SHARES: Final[dict[str, tuple[float, ...]]] = {
    "ternary": tuple(share / 20 for share in range(20, 5, -1)),
    "2": tuple(share / 20 for share in range(20, 5, -1)),
    "3": tuple(share / 20 for share in range(20, 10, -1)),
    "4": tuple(share / 20 for share in range(20, 14, -1)),
    "5": tuple(share / 20 for share in range(20, 16, -1)),
    "6": tuple(share / 20 for share in range(20, 16, -1)),
    "8": tuple(share / 20 for share in range(20, 16, -1)),
}

Shape = tuple[int, ...]


def table_of(spec: QuantSpec) -> Table:
    """Of a spec without groups. Ternary is symmetric as it is."""
    if spec.codebook == "nf" or spec.bits in {"ternary", "full"}:
        return spec.bits
    return cast("Table", f"symmetric-{spec.bits}")


def fitted_shares(table: Table) -> tuple[float, ...]:
    """Shares of a block's largest weight that are tried for a fitting scale."""
    return FITTED_SHARES[table.removeprefix("symmetric-")]


def packed_bytes(n_codes: int, table: Table) -> int:
    """How many bytes `n_codes` codes take."""
    if table in DIGIT_GROUPS:
        per_group, n_bytes = DIGIT_GROUPS[table]
        return -(-n_codes // per_group) * n_bytes
    return -(-n_codes // 5) if table == "ternary" else -(-n_codes * int(table) // 8)


def max_codes(n_bytes: int, table: Table) -> int:
    """How many codes fit into that many bytes: the other way round, up to the last byte's padding."""
    if table in DIGIT_GROUPS:
        per_group, group_bytes = DIGIT_GROUPS[table]
        return n_bytes // group_bytes * per_group
    return 5 * n_bytes if table == "ternary" else 8 * n_bytes // int(table)


def parts_layout(shape: Shape, spec: QuantSpec) -> dict[str, tuple[str, Shape]]:
    """Name to (dtype, shape) of the parts of a tensor of that shape; `spec` is the tensor's own (`QuantSpec.of`)."""
    if spec.groups:
        raise AssertionError("a spec with groups says nothing of one tensor")
    if spec.bits == "full":
        return {"": ("F32", shape)}
    n_elements = math.prod(shape)
    n_blocks = -(-n_elements // spec.block)
    layout: dict[str, tuple[str, Shape]] = {"codes": ("U8", (packed_bytes(n_elements, table_of(spec)),))}
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
