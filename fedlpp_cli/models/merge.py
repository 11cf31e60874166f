"""Fold an adapter into the weights of its base: `W + s B A`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b
from fedlpp_cli.records.specs import LoraSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(model: "PreTrainedModel", values: Mapping[str, Tensor], lora: LoraSpec) -> None:
    """Change the model's weights in place; products are taken in float32.

    Args:
        model: a plain base model, without adapter layers.
        values: the adapter by component name.
        lora: where it goes, and its scaling.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for name in lora.target_modules:
            module = model.get_submodule(name)
            product = lora.scaling * (values[factor_b(name)] @ values[factor_a(name)])
            weight = model.get_parameter(f"{name}.weight")
            weight.add_(product.T if isinstance(module, Conv1D) else product)
        for name in lora.modules_to_save:
            for parameter_name, parameter in model.get_submodule(name).named_parameters():
                parameter.copy_(values[f"{name}.{parameter_name}"])
