"""FedAvg on adapters (FedIT, Zhang et al., ICASSP 2024, arXiv 2305.05644): everybody has the adapter.

Both factors travel in full precision and are averaged: FedLPP without its privacy, to compare with.
"""

from typing import Final

from fedlpp_cli.methods.method import Asked, Method


def _refuse(asked: Asked) -> str | None:
    if asked.quantize is not None and asked.quantize.is_rounded:
        return 'the adapter travels in full precision; --bits full, or bits = "full" under [quantize]'
    return None


METHOD: Final = Method(
    name="fedavg",
    paper="McMahan et al., AISTATS 2017, arXiv 1602.05629; on LoRA: Zhang et al., ICASSP 2024, arXiv 2305.05644",
    down="A and B, in full precision",
    up="A and B",
    private="nothing of the adapter",
    cost="r (m + n) down and up",
    refuse=_refuse,
)
