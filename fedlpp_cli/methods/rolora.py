"""RoLoRA (Chen et al., NeurIPS 2025, arXiv 2502.01755): rounds train and send B and A by turns, B first.

Of each round's two factors one is everybody's, so that the mean of products is the product of means.
"""

from typing import Final

from fedlpp_cli.methods.method import Method, refuse_for_one_factor
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorPlan


def _plan(master: MasterSpec, round_number: int) -> FactorPlan:
    return FactorPlan(trains="A" if round_number % 2 else "B")


METHOD: Final = Method(
    name="rolora",
    paper="Chen et al., NeurIPS 2025, arXiv 2502.01755",
    down="A and B, rounded",
    up="B in rounds 0, 2, 4 …, A in the others",
    private="A and B in full precision",
    cost="r (m + n) down, r m or r n up; gradients of one factor",
    plan=_plan,
    refuse=refuse_for_one_factor,
)
