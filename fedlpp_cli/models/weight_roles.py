"""What the tensors in a base model's files are to the model: which are linear layers, embeddings, the output layer.

Looked up once, by `init`, since it takes transformers and the model; a base can then be rounded without either.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fedlpp_cli.models.base_tensors import base_tensors
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, WeightRole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def weight_roles(folder: Path, task: TaskSpec, lora: LoraSpec) -> dict[str, WeightRole]:
    """Tensor name, as in the files, to role.

    Tensors that the model does not use, "unused", are listed whatever their shape; of the others those with two
    dimensions or more. What transformers builds from several tensors (fused experts) is not listed. A layer that the
    files have no tensor for, because it shares the embeddings' or is new, is "kept".

    Raises:
        ModelError: the base cannot be opened.
    """
    opened = open_model(folder, task, device="meta")
    model = opened.model
    by_parameter = _roles_of_parameters(model, lora)
    prefix = f"{model.base_model_prefix}."
    ignored = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    roles: dict[str, WeightRole] = {}
    for name, tensor in base_tensors(folder).items():
        known = next((at for at in (name, prefix + name, name.removeprefix(prefix)) if at in by_parameter), None)
        if known is not None:
            role = by_parameter.pop(known)
            if len(tensor.info.shape) >= 2 and role is not None:
                roles[name] = role
        elif name in opened.unused or any(pattern.search(name) for pattern in ignored):
            roles[name] = "unused"
    roles |= {name: "kept" for name, role in by_parameter.items() if role in {"output", "kept", "linear"}}
    return dict(sorted(roles.items()))


def _roles_of_parameters(model: "PreTrainedModel", lora: LoraSpec) -> dict[str, WeightRole | None]:
    """Parameter name to role; None for what no role fits, such as a norm or a convolution."""
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    always = [*lora.modules_to_save, *(getattr(model, "_keep_in_fp32_modules", None) or ())]
    roles: dict[str, WeightRole | None] = dict.fromkeys(model.state_dict())
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if weight not in roles:
            continue
        if _is_among(name, always):
            roles[weight] = "kept"
        elif module is output:
            roles[weight] = "output"
        elif isinstance(module, nn.Embedding):
            roles[weight] = "embedding"
        elif isinstance(module, Conv1D):
            roles[weight] = "transposed"
        elif type(module) is nn.Linear:
            roles[weight] = "linear"
    return roles


def _is_among(module: str, names: Iterable[str]) -> bool:
    """Whether a name is the module's, the end of it, or that of a module around it."""
    parts = module.split(".")
    around = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return any(name in around or module.endswith(f".{name}") for name in names)
