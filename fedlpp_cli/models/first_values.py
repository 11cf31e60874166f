"""The adapter before any training: where it goes on a base model, and its values."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fedlpp_cli.adapters.components import initial_value, module_of
from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.adapted import component_shapes
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.targets import choose_saved, choose_targets
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def resolve_lora(folder: Path, task: TaskSpec, wanted: LoraSpec) -> LoraSpec:
    """`wanted` with full names of layers, and with the head of a classifier among `modules_to_save`.

    Raises:
        ModelError: the base cannot be opened, has no such layers, or cannot take texts as long as the task's.
    """
    from msgspec.structs import replace

    opened = open_model(folder, task, device="meta")
    _check_length(opened.model, task)
    saved = choose_saved(opened.model, wanted.modules_to_save, opened.new_parameters)
    targets = choose_targets(opened.model, wanted.target_modules, saved)
    return replace(wanted, target_modules=targets, modules_to_save=saved)


def first_values(folder: Path, task: TaskSpec, lora: LoraSpec, *, seed: int) -> dict[str, Tensor]:
    """Component name to first value, float32, sorted by name.

    Modules that are trained whole start at the base's values where it has them.
    """
    opened = open_model(folder, task, device="meta")
    shapes = component_shapes(opened.model, lora)
    new = {name for name in shapes if module_of(name) in lora.target_modules} | set(opened.new_parameters)
    values = {name: initial_value(name, shape, seed=seed) for name, shape in shapes.items() if name in new}
    if len(values) < len(shapes):
        model = open_model(folder, task).model
        for name in set(shapes) - new:
            values[name] = model.get_parameter(name).detach().float().clone()
    return dict(sorted(values.items()))


def _check_length(model: "PreTrainedModel", task: TaskSpec) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and "roberta" in model.config.model_type:
        limit -= (model.config.pad_token_id or 0) + 1  # positions start behind the padding index
    if limit is not None and task.max_length > limit:
        raise ModelError(
            f"max_length {task.max_length} is more than the {limit} positions of this {model.config.model_type} model",
            hint=f"--max-length {limit}",
        )
