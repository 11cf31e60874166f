"""The gradients of single examples, of which a backward pass only gives the sum.

For a linear layer the gradient of example n is `sum_t g_nt a_nt^T`: what came in, and the gradient of what went out.
Both are there during the backward pass, and are caught by hooks. All that an adapter trains are linear layers: the
factors of LoRA, and heads. The products are of the factors' size, a rank wide, so they are kept as they are.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedlpp_cli.errors import ModelError


class ExampleGradients:
    """While it is `open`, catches the gradients of each example of one batch; `close` takes the hooks off."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        """Find the layer of each parameter.

        Raises:
            ModelError: something is trained that is no linear layer.
        """
        self._of: dict[int, Tensor] = {}
        self._n_examples = 0
        wanted = {id(parameter): name for name, parameter in parameters.items()}
        layers = [module for module in model.modules() if _own(module) & set(wanted)]
        odd = next((layer for layer in layers if type(layer) is not nn.Linear), None)
        if odd is not None:
            raise ModelError(
                f"a {type(odd).__name__} is trained whole, and privacy for examples takes linear layers only",
                hint="ask the owner for a federation without it in --modules-to-save",
            )
        self._parameters = list(parameters.values())
        self._handles = [layer.register_forward_hook(self._watch) for layer in layers]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def start(self, n_examples: int) -> None:
        """Forget the last batch; the next one has `n_examples`."""
        self._of, self._n_examples = {}, n_examples

    def squared_norms(self) -> Tensor:
        """Of each example's gradient over all parameters, float64 `(B,)`."""
        squares = torch.zeros(self._n_examples, dtype=torch.float64)
        for parameter in self._parameters:
            found = self._of.get(id(parameter))
            if found is not None:
                squares += found.flatten(1).double().square().sum(1).cpu()
        return squares

    def of_examples(self, parameter: nn.Parameter) -> Tensor | None:
        """A parameter's gradient of each example, float32 `(B, ...)`; None where it had none."""
        return self._of.get(id(parameter))

    def weighted_sum(self, parameter: nn.Parameter, weights: Tensor) -> Tensor | None:
        """The sum of a parameter's gradients times `weights` `(B,)`, float64 on the CPU; None where it had none."""
        found = self._of.get(id(parameter))
        return None if found is None else torch.tensordot(weights, found.double().cpu(), dims=1)

    def _watch(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A first pass without gradients, as of checkpointing, is seen again when it counts.
        if output.requires_grad:
            output.register_hook(lambda gradient: self._catch(layer, inputs[0].detach(), gradient))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _catch(self, layer: Any, entered: Tensor, gradient: Tensor) -> None:
        if not any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            return
        if len(entered) != self._n_examples:
            raise ModelError(f"a layer sees {len(entered)} rows where there are {self._n_examples} examples")
        # In float32 whatever autocast computes in: what is measured must be what is added.
        left = gradient.float().reshape(self._n_examples, -1, gradient.shape[-1])
        right = entered.float().reshape(self._n_examples, -1, entered.shape[-1])
        self._add(layer.weight, torch.bmm(left.transpose(1, 2), right))
        if layer.bias is not None:
            self._add(layer.bias, left.sum(1))

    def _add(self, parameter: nn.Parameter, value: Tensor) -> None:
        if parameter.requires_grad:
            before = self._of.get(id(parameter))
            self._of[id(parameter)] = value if before is None else before + value


def _own(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters(recurse=False)}
