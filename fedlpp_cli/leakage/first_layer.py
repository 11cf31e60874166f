"""What enters the first adapted layer: of one token, where nothing has mixed tokens yet."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fedlpp_cli.models.adapted import AdaptedModel

_PROBE: Final = 4  # tokens of a probe
_AT_ONCE: Final = 2**22  # numbers of inputs that are held together


@dataclass(frozen=True, slots=True)
class FirstLayer:
    """The adapted modules that see the first input, which is one. `has_positions`: it depends on a token's place."""

    modules: tuple[str, ...]
    has_positions: bool


class _SeenError(Exception):
    """The first adapted layer was reached: what is behind it need not be computed."""


def find_first_layer(adapted: AdaptedModel, modules: Sequence[str]) -> FirstLayer | None:
    """The first of `modules` that a text reaches; None where what enters there is not of one token alone."""
    middle = adapted.model.get_input_embeddings().num_embeddings // 2
    a, b, c, d, e = range(middle, middle + 5)
    seen = _inputs(adapted, modules, torch.tensor([[a, b, c, a], [d, b, e, a], [a, a, a, a]]))
    first, entered = next(iter(seen.items()))
    if not torch.allclose(entered[0, [1, 3]], entered[1, [1, 3]], rtol=1e-4, atol=1e-5):
        return None
    same = tuple(name for name, value in seen.items() if name == first or torch.equal(value, entered))
    has_positions = not torch.allclose(entered[2, 0], entered[2, 2], rtol=1e-4, atol=1e-5)
    return FirstLayer(same, has_positions)


def token_inputs(
    adapted: AdaptedModel, layer: FirstLayer, tokens: Sequence[int], n_positions: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Some tokens after the other, and what enters `layer` for each at each position, `(tokens, positions, n)`.

    Args:
        adapted: the model.
        layer: of `find_first_layer`.
        tokens: whichever are asked for.
        n_positions: from the first one on; 1 is enough where the layer has no positions.
    """
    first = layer.modules[0]
    width = adapted.model.get_input_embeddings().embedding_dim
    at_once = max(1, _AT_ONCE // (n_positions * width))
    for start in range(0, len(tokens), at_once):
        some = tokens[start : start + at_once]
        ids = torch.tensor(some)[:, None].expand(-1, n_positions)
        yield some, _inputs(adapted, [first], ids, stop=True)[first]


@torch.no_grad()
def _inputs(adapted: AdaptedModel, modules: Sequence[str], ids: Tensor, *, stop: bool = False) -> dict[str, Tensor]:
    """By module, in the order in which they are reached, what enters it; float32 on the CPU."""
    seen: dict[str, Tensor] = {}
    with _watched(adapted, modules, seen, stop=stop), suppress(_SeenError):
        adapted.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return seen


@contextmanager
def _watched(adapted: AdaptedModel, modules: Sequence[str], seen: dict[str, Tensor], *, stop: bool) -> Iterator[None]:
    def watch(name: str) -> Any:
        def see(layer: Any, entered: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, entered[0].detach().float().cpu())
            if stop:
                raise _SeenError

        return see

    handles = [adapted.model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
