"""`make bench-quantize`: rounding weights, against bitsandbytes on the same CPU in the same run.

Both sides get new memory for what they make, at every call.
"""

import bitsandbytes.functional as bnb
import torch
from base import add_base
from table import FAST, Table, best_of
from wordnet import add_wordnet

from fedlpp_cli.quantization.codec import decode, encode
from fedlpp_cli.quantization.layout import parts_layout
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.specs import Bits, QuantSpec

SIZE = 2**22 if FAST else 2**26
BLOCK = 64
WIDTHS: tuple[Bits, ...] = ("2", "3", "ternary", "8", "5", "6")


def main() -> None:
    """Measure, print, write."""
    table = Table("quantize")
    _add_tensors(table)
    add_base(table)
    add_wordnet(table)
    table.write("torch", "bitsandbytes", "numba", "numpy")


def _add_tensors(table: Table) -> None:
    values = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    gigabytes = SIZE * 4 / 1e9
    print(f"{SIZE:,} weights, block {BLOCK}, {torch.get_num_threads()} threads")

    packed, state = bnb.quantize_4bit(values, blocksize=BLOCK, quant_type="nf4")
    codes, scales = encode(values, "4", BLOCK)
    equal = torch.equal(codes, packed.reshape(-1)) and torch.equal(scales, state.absmax)
    table.add("NF4: codes and scales equal to bitsandbytes'", float(equal), "yes = 1", ">=1")

    theirs = best_of(lambda: bnb.quantize_4bit(values, blocksize=BLOCK, quant_type="nf4"), runs=2)
    ours = best_of(lambda: encode(values, "4", BLOCK))
    table.add("NF4 quantize fp32: bitsandbytes", gigabytes / theirs, "GB/s")
    table.add("NF4 quantize fp32: fedlpp", gigabytes / ours, "GB/s")
    table.add("NF4 quantize fp32: times faster", theirs / ours, "x", ">=25")
    for bits in WIDTHS:
        goal = ">=0.8" if bits in {"2", "3", "ternary", "8"} else ""
        mine = best_of(lambda bits=bits: encode(values, bits, BLOCK))
        table.add(f"quantize fp32 to {bits}: throughput against our own 4-bit", ours / mine, "x", goal)
    for dtype in (torch.bfloat16, torch.float16):
        half = values.to(dtype)
        seconds = best_of(lambda half=half: encode(half, "4", BLOCK))
        table.add(f"NF4 quantize {str(dtype).removeprefix('torch.')}", SIZE / seconds / 1e9, "G weights/s")

    state.dtype = torch.bfloat16
    theirs = best_of(lambda: bnb.dequantize_4bit(packed, state))
    ours = best_of(lambda: decode(codes, scales, SIZE, "4", BLOCK, torch.bfloat16))
    table.add("NF4 dequantize to bf16: bitsandbytes", SIZE / theirs / 1e9, "G weights/s")
    table.add("NF4 dequantize to bf16: fedlpp", SIZE / ours / 1e9, "G weights/s")
    table.add("NF4 dequantize to bf16: times faster", theirs / ours, "x", ">=2")

    table.add(
        "4-bit, double-quantized scales: size", _bits(values, QuantSpec(bits="4", scale="double")), "bits", "<=4.13"
    )
    # Of a whole number of bytes: 5 codes each.
    n = SIZE // 5 * 5
    table.add("ternary: size of the codes", 8 * len(encode(values[:n], "ternary", BLOCK)[0]) / n, "bits", "<=1.6")


def _bits(values: torch.Tensor, spec: QuantSpec) -> float:
    """Bits a weight, of what is really there."""
    parts = quantize_tensor(values, spec, name="x")
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        name: shape for name, (_, shape) in parts_layout(tuple(values.shape), spec).items()
    }
    return 8 * sum(part.numel() * part.element_size() for part in parts.values()) / values.numel()


if __name__ == "__main__":
    main()
