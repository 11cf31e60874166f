"""Which layers of a base model are adapted: literal names, found in the model, never patterns."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from torch import nn

from fedlpp_cli.adapters.components import module_of
from fedlpp_cli.errors import ModelError
from fedlpp_cli.records.specs import ALL_LINEAR

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What transformers calls the head of a classifier, over its architectures.
_HEAD_NAMES: Final = ("classifier", "score", "classification_head")

Sizes = dict[str, tuple[int, int]]


def linear_sizes(model: "PreTrainedModel") -> Sizes:
    """Module name to (in_features, out_features) of every Linear and Conv1D layer (GPT-2's transposed linear)."""
    from transformers.pytorch_utils import Conv1D

    sizes: Sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            sizes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            sizes[name] = (module.nx, module.nf)
    return sizes


def choose_targets(model: "PreTrainedModel", wanted: Sequence[str], saved: Sequence[str]) -> tuple[str, ...]:
    """Full names of the layers to adapt, sorted.

    Args:
        model: the base model.
        wanted: "all-linear" (all but the output layer and what is trained whole), or module names; a name stands
            for every layer whose full name it is or ends with, at a dot.
        saved: modules that are trained whole.

    Raises:
        ModelError: a name that no layer has, or nothing to adapt.
    """
    layers = {name for name in linear_sizes(model) if not _inside(name, saved)}
    if list(wanted) == [ALL_LINEAR]:
        output = model.get_output_embeddings()
        layers -= {name for name, module in model.named_modules() if module is output}
        if not layers:
            raise ModelError(f"a {model.config.model_type} model has no linear layer to adapt")
        return tuple(sorted(layers))
    chosen: set[str] = set()
    for name in wanted:
        found = {layer for layer in layers if layer == name or layer.endswith("." + name)}
        if not found:
            last_parts = sorted({layer.rpartition(".")[2] for layer in layers})
            raise ModelError(f"no linear layer is called {name!r}; layers here: {', '.join(last_parts)}")
        chosen |= found
    _refuse_tied(model, chosen)
    return tuple(sorted(chosen))


def _refuse_tied(model: "PreTrainedModel", chosen: set[str]) -> None:
    output = model.get_output_embeddings()
    if getattr(model.config, "tie_word_embeddings", False):
        tied = [name for name, module in model.named_modules() if module is output and name in chosen]
        if tied:
            raise ModelError(f"layer {tied[0]!r} shares its weights with the embeddings and cannot be adapted alone")


def choose_saved(model: "PreTrainedModel", wanted: Sequence[str], new_parameters: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules to train whole, sorted: those in `wanted`, and a classifier's head.

    Raises:
        ModelError: a name that no module has.
    """
    modules = dict(model.named_modules())
    for name in wanted:
        if not name or name not in modules:
            raise ModelError(f"modules_to_save: the model has no module {name!r}")
    chosen = {*wanted, *_new_modules(model, set(new_parameters))}
    if not new_parameters and model.get_output_embeddings() is None:
        chosen |= {name for name in _HEAD_NAMES if name in modules}
    return tuple(sorted(name for name in chosen if not _inside(name, chosen - {name})))


def _new_modules(model: "PreTrainedModel", new: set[str]) -> set[str]:
    """The largest modules that are new altogether."""
    names = {name for name, _ in model.named_parameters()}
    modules = set()
    for parameter in new:
        module = module_of(parameter)
        while (parent := module_of(module)) and {name for name in names if _inside(name, [parent])} <= new:
            module = parent
        modules.add(module)
    return modules


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)
