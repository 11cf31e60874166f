"""From a component of one master to the tensors of the next: its value, and what the server optimizer remembers.

The state lies in a master in F32, as everything does, and a step computes in float64 from there: whoever has the master
and the updates gets the next one again, bit for bit. A step is made with the state before it is rounded. Rounding takes
at most 2^-24 of a number; `beta1` and `beta2` let old errors fade, and Adagrad's sum gathers one a round.
"""

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import MOMENTS, goes_on, state_name
from fedlpp_cli.aggregation.server_optimizers import first_state, step
from fedlpp_cli.aggregation.update_rules import next_value
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec


def next_tensors(
    master: TensorFile[MasterHeader], component: str, theta: Tensor, proxy: Tensor, mean: Tensor, spec: AggregateSpec
) -> dict[str, Tensor]:
    """Name to value, float64: the component first, then its state, if the optimizer has one.

    Args:
        master: the open round's; its layout has been checked.
        component: which one.
        theta: what the master says of it, float64.
        proxy: what clients started at, float64.
        mean: of their updates, float64.
        spec: update rule and server optimizer.

    Raises:
        ValueError: update rule 4 in a round beyond the planned ones.
    """
    if not MOMENTS[spec.server_optimizer]:
        return {component: next_value(theta, proxy, mean, spec, round_number=master.header.round)}
    value, state = step(theta, mean, _state_before(master, component, spec), spec)
    return {component: value, **{state_name(component, moment): tensor for moment, tensor in state.items()}}


def unmoved_tensors(master: TensorFile[MasterHeader], component: str, spec: AggregateSpec) -> dict[str, Tensor]:
    """The same of a component that a round does not train: no step is made, and what is remembered stays. Float32."""
    state = _state_before(master, component, spec) if MOMENTS[spec.server_optimizer] else {}
    kept = {state_name(component, moment): tensor.to(torch.float32) for moment, tensor in state.items()}
    return {component: master.read(component), **kept}


def _state_before(master: TensorFile[MasterHeader], component: str, spec: AggregateSpec) -> dict[str, Tensor]:
    if not goes_on(master.header.spec, spec):
        return first_state(master.tensors[component].shape, spec)
    return {
        moment: master.read(state_name(component, moment)).to(torch.float64)
        for moment in MOMENTS[spec.server_optimizer]
    }
