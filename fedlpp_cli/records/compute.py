"""How a client computes: what it asks for, what was chosen, what a training takes. Nothing of it is in an update."""

from typing import Literal

from fedlpp_cli.records.record import Count, PositiveInt, Record
from fedlpp_cli.records.specs import Batching, ComputeType

ComputeWish = Literal["auto", "dense-fp32", "dense-bf16", "bnb-4bit"]
# `bnb-8bit`: a base that its owner sent in LLM.int8.
Backend = Literal["dense-fp32", "dense-bf16", "bnb-4bit", "bnb-8bit"]


class ComputeSpec(Record, frozen=True, kw_only=True):
    """What a client asks for.

    `batching`: how examples go through the model (`training/batching.py`). `gradient_checkpointing` computes a layer's
    activations again in the backward pass instead of keeping them. `micro_batch`: examples that go through the model at
    once; None for whole batches. `shard_base`: of several processes each keeps a part of the base only. `trial_steps`:
    steps that a dry run measures and takes back; with 0 it does not open the model.
    """

    backend: ComputeWish = "auto"
    batching: Batching = "auto"
    gradient_checkpointing: bool = False
    micro_batch: PositiveInt | None = None
    shard_base: bool = False
    trial_steps: Count = 3


class ComputeChoice(Record, frozen=True, kw_only=True):
    """What was chosen, and why. `arithmetic`: the package's, unless the client asked for another.

    `memory_estimate`: bytes that base, adapter and activations should take at most, on the device; `memory_free`: those
    that were free there, None where nobody can tell. `attention`: transformers' name of what attends. `n_processes`
    share each batch, and with `shard_base` the base too.
    """

    backend: Backend
    arithmetic: ComputeType
    device: str
    reason: str
    attention: str | None
    gradient_checkpointing: bool
    micro_batch: PositiveInt | None
    n_processes: PositiveInt
    shard_base: bool
    memory_estimate: Count
    memory_free: Count | None


class TrainPlan(Record, frozen=True, kw_only=True):
    """What a training would take, in the units of its names.

    `n_base_bytes`: of the base's weights as they lie in memory. `memory_peak`, `step_seconds` and `total_seconds` are
    measured in `n_trial_steps` real steps on the longest examples, None without them: the process's largest resident
    memory on a CPU, the largest allocation on a GPU; the median step; that median times the number of steps, less where
    their batches are shorter. `n_tokens`: of all steps, without padding. `bytes_down`: the package; `bytes_down_base`:
    the files of a public base, for who has not got them.
    """

    n_base_parameters: Count
    n_base_bytes: Count
    n_tokens: Count
    n_trial_steps: Count
    memory_peak: Count | None
    step_seconds: float | None
    total_seconds: float | None
    bytes_down: Count
    bytes_down_base: Count
    bytes_up: Count
