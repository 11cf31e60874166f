"""A base model with an adapter on it, whose tensors can be set and read by component name."""

import inspect
from collections.abc import Container, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedlpp_cli.adapters.components import FACTOR_A, FACTOR_B, factor_a, factor_b
from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.targets import linear_sizes
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.specs import ComputeType, LoraSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "default"


class AdaptedModel:
    """The base stays frozen; `parameters` are the adapter's, float32, keyed by component name in sorted order."""

    def __init__(self, model: "PreTrainedModel", lora: LoraSpec, *, compute: ComputeType = "fp32") -> None:
        """Put an adapter on a frozen model, in place.

        Args:
            model: the base.
            lora: where the adapter goes.
            compute: dtype of the base's weights; with bf16, arithmetic runs under autocast.

        Raises:
            ModelError: the model has not the layers that `lora` names.
        """
        self.model = model
        self.compute = compute
        self.parameters: dict[str, nn.Parameter] = {}
        _inject(model, lora)
        found: dict[str, nn.Parameter] = {}
        for module in (*lora.target_modules, *lora.modules_to_save):
            _float_adapter(model.get_submodule(module))
        for module in lora.target_modules:
            found[factor_a(module)] = model.get_parameter(f"{module}.lora_A.{_ADAPTER}.weight")
            found[factor_b(module)] = model.get_parameter(f"{module}.lora_B.{_ADAPTER}.weight")
        for module in lora.modules_to_save:
            for name, parameter in model.get_submodule(module).named_parameters():
                found[f"{module}.{name}"] = parameter
        model.requires_grad_(False)
        for name in sorted(found):
            found[name].requires_grad_(True)
            self.parameters[name] = found[name]

    def checkpoint_gradients(self) -> None:
        """From now on compute a layer's activations again in the backward pass instead of keeping them.

        Dropout draws the same again: gradients are those of a training without.

        Raises:
            ModelError: an architecture that transformers cannot do this for.
        """
        if not self.model.supports_gradient_checkpointing:
            raise ModelError(f"a {self.model.config.model_type} model has no gradient checkpointing")
        # The other kind, reentrant, has no gradient where a layer's inputs need none, as behind frozen embeddings.
        with quiet_libraries():  # they will call it otherwise
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            # transformers lets the embeddings' output need a gradient, which only the reentrant kind has a use for: it
            # would be work below the first adapter.
            self.model.disable_input_require_grads()

    def logits(self, batch: Mapping[str, Tensor], *, n_last: int = 0) -> Tensor:
        """What the model says to a batch of `input_ids`, `attention_mask` and the like, on its own device.

        Args:
            batch: tensors `(B, T)`.
            n_last: of a language model that can leave out the others, only to the last so many tokens; 0 for all.
        """
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        options: dict[str, object] = {"use_cache": False} if self.model.get_output_embeddings() is not None else {}
        if n_last:
            options["logits_to_keep"] = n_last
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.compute == "bf16"):
            logits: Tensor = self.model(**inputs, **options).logits
        return logits

    @cached_property
    def can_leave_out(self) -> bool:
        """Whether `logits` knows `n_last`: most language models do."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set every component.

        Raises:
            ModelError: names or shapes that are not this adapter's.
        """
        self.check_shapes({name: tuple(value.shape) for name, value in values.items()})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])

    def check_shapes(self, found: Mapping[str, Shape]) -> None:
        """Refuse components that are not this adapter's.

        Raises:
            ModelError: naming the first one.
        """
        expected = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        if found != expected:
            name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
            raise ModelError(
                f"component {name!r}: the artifact has {found.get(name, 'none')}, "
                f"the base model needs {expected.get(name, 'none')}",
                hint="is this the base model that the federation agreed on?",
            )

    def let_train(self, components: Container[str]) -> None:
        """From now on a backward pass gives gradients to these components, and to no other."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in components)

    def values(self) -> dict[str, Tensor]:
        """A float32 copy of every component, on the CPU."""
        return {name: parameter.detach().float().cpu().clone() for name, parameter in self.parameters.items()}


def _float_adapter(module: nn.Module) -> None:
    """Trainable tensors in float32, whatever the base is in; sums of small steps get lost in bf16."""
    for name, child in module.named_children():
        if name in (FACTOR_A, FACTOR_B):
            child.float()
    if not hasattr(module, FACTOR_A):
        module.float()


def component_shapes(model: "PreTrainedModel", lora: LoraSpec) -> dict[str, Shape]:
    """Component name to shape of an adapter on this model, which may be on the meta device; sorted."""
    sizes = linear_sizes(model)
    shapes: dict[str, Shape] = {}
    for module in lora.target_modules:
        in_features, out_features = sizes[module]
        shapes[factor_a(module)] = (lora.rank, in_features)
        shapes[factor_b(module)] = (out_features, lora.rank)
    for module in lora.modules_to_save:
        for name, parameter in model.get_submodule(module).named_parameters():
            shapes[f"{module}.{name}"] = tuple(parameter.shape)
    return dict(sorted(shapes.items()))


def _inject(model: "PreTrainedModel", lora: LoraSpec) -> None:
    missing = sorted({*lora.target_modules, *lora.modules_to_save} - {name for name, _ in model.named_modules()})
    if missing:
        raise ModelError(f"the base model has no layer {missing[0]!r}", hint="is this the agreed base model?")
    with quiet_libraries():
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        if lora.target_modules:
            config = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                use_rslora=lora.use_rslora,
                target_modules=list(lora.target_modules),
                bias="none",
            )
            inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    injected = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if injected != set(lora.target_modules):
        odd = min(injected ^ set(lora.target_modules))
        raise ModelError(f"layer {odd!r} cannot be adapted alone in this base model")
