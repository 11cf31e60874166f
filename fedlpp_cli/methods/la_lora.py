"""LA-LoRA (Liu et al., ICLR 2026, arXiv 2602.19926): steps train B and A by turns, along smoothed gradients.

Made for privacy for examples: each example's gradient of the step's factor is cut and gets its noise, then the filter
of `training/smoothing.py` takes most of the noise away. As in the paper; the code that its authors released clips a
batch's mean by tensors, which guarantees nothing about an example, and filters otherwise.
"""

from typing import Final

from fedlpp_cli.methods.method import Asked, Method
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorPlan


def _plan(master: MasterSpec, round_number: int) -> FactorPlan:
    return FactorPlan(trains="steps", smooth_gradients=True)


def _refuse(asked: Asked) -> str | None:
    if asked.lora is not None and not asked.lora.target_modules:
        return "it is about the factors of an adapter, and this one has none"
    if asked.is_masked:
        return "masks hide rows of B, and its filter mixes rows with their neighbours"
    if asked.train is not None and asked.train.control_variates:
        return "control variates are of steps that train both factors"
    if asked.train is not None and asked.train.steps == 1:
        return "its steps train B and A by turns, so that a round needs two of them"
    return None


METHOD: Final = Method(
    name="la-lora",
    paper="Liu et al., ICLR 2026, arXiv 2602.19926",
    down="A and B, rounded",
    up="A and B",
    private="A and B in full precision",
    cost="r (m + n) down and up; a step has gradients of one factor, and filters them",
    plan=_plan,
    refuse=_refuse,
)
