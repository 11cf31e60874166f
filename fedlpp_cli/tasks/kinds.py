"""The table of tasks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.seq_cls import SeqCls
from fedlpp_cli.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def task_for(spec: TaskSpec, tokenizer: "PreTrainedTokenizerBase", columns: Mapping[str, str]) -> Task:
    """The task that `spec` names."""
    match spec.kind:
        case "causal-lm":
            return CausalLM(spec, tokenizer, columns)
        case "seq-cls":
            return SeqCls(spec, tokenizer, columns)
