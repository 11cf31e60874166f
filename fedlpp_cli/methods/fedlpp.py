"""FedLPP (Zhu et al., Findings of EMNLP 2024, arXiv 2406.10976), the default: clients get a rounded adapter.

Both factors are trained; the owner's adapter in full precision never leaves it.
"""

from typing import Final

from fedlpp_cli.methods.method import Method

METHOD: Final = Method(
    name="fedlpp",
    paper="Zhu et al., Findings of EMNLP 2024, arXiv 2406.10976",
    down="A and B, rounded",
    up="A and B",
    private="the adapter in full precision",
    cost="r (m + n) down and up",
)
