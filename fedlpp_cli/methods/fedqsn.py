"""FedQSN (Xu et al., Findings of EMNLP 2025, arXiv 2508.18911): clients get rounded parts of the adapter.

A server's mask hides a share p1 of each layer's output features from everybody, a client's mask a share p2 of the rest
from that client; what is left is scaled, so that the mean over all masks is the adapter, and rounded to 2^k + 1 levels,
as many below zero as above. Both factors are trained; how masked updates become one: `aggregation/masks.py`.

The paper gives no values of p1 and p2; those here are moderate. Its clients' masks are other ones in each round, which
shows a client all but p2^T of the rows after T rounds: here they stay, and `fresh` is the paper's way.
"""

from typing import Final

from fedlpp_cli.methods.method import Asked, Method
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import QuantSpec

_SYMMETRIC: Final = QuantSpec(codebook="symmetric")
_SHARES: Final = MaskSpec(server=0.1, client=0.25)


def _refuse(asked: Asked) -> str | None:
    if asked.lora is not None and not asked.lora.target_modules:
        return "it hides rows of factors B, and this adapter has none"
    if asked.quantize is not None and not asked.quantize.is_rounded:
        return "what clients get is rounded; --bits 2 to --bits 6, or ternary"
    if asked.quantize is not None and asked.quantize.codebook != "symmetric":
        return f"its levels are symmetric, not {asked.quantize.codebook}; --codebook symmetric, or none said"
    if asked.mask is not None and not asked.is_masked:
        return f"it hides rows from clients; --mask-client {_SHARES.client:g}, or [mask] client"
    if asked.train is not None and asked.train.control_variates:
        return "control variates would tell how hidden rows move"
    return None


METHOD: Final = Method(
    name="fedqsn",
    paper="Xu et al., Findings of EMNLP 2025, arXiv 2508.18911; here on adapters",
    down="A, and the rows of B that the client's mask leaves, rounded to symmetric levels",
    up="A and B, zeros where it got nothing",
    private="A and B in full precision; which rows others got; rows that nobody gets",
    cost="r (m + n) down and up; a package for each client",
    refuse=_refuse,
    quantize=_SYMMETRIC,
    mask=_SHARES,
)
