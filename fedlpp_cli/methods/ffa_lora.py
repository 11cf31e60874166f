"""FFA-LoRA (Sun et al., ICLR 2024, arXiv 2403.12313): A is drawn once and stays, only B is trained and sent.

The mean of products is then the product of means, and noise of DP-SGD enters `s B A` linearly: the term of both noises
is gone, which grows with the fourth power of its standard deviation.
"""

from typing import Final

from fedlpp_cli.methods.method import Method, refuse_for_one_factor
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorPlan


def _plan(master: MasterSpec, round_number: int) -> FactorPlan:
    return FactorPlan(trains="B")


METHOD: Final = Method(
    name="ffa-lora",
    paper="Sun et al., ICLR 2024, arXiv 2403.12313",
    down="B, rounded; A is drawn from the seed",
    up="B",
    private="B in full precision",
    cost="r m down and up; no gradients of A",
    plan=_plan,
    draws_a=True,
    refuse=refuse_for_one_factor,
)
