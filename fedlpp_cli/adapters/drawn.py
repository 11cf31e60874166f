"""Factors A that a proxy does not hold: where they never move, clients draw them from the seed as `init` did.

All are drawn with the master's rank, and of a lower rank the first rows are kept: proxies of all ranks have the same A.
Loads no torch until values are drawn.
"""

import hashlib
import math
from typing import TYPE_CHECKING, Final

from fedlpp_cli.adapters.components import factor_a, factor_modules, initial_value
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.ranks import first_terms, shape_of_rank
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader, ProxySpec
from fedlpp_cli.records.methods import DrawnFactors

if TYPE_CHECKING:
    from torch import Tensor

# No bytes in the file stand for them, so a header alone could ask for any number: 4 GB of them are enough.
_MAX_VALUES: Final = 2**30


def sent_shapes(spec: ProxySpec) -> dict[str, Shape]:
    """Component to shape of what a proxy holds."""
    return {name: shape for name, shape in spec.shapes.items() if not is_drawn(spec, name)}


def is_drawn(spec: ProxySpec, component: str) -> bool:
    """Whether clients draw a component."""
    return spec.drawn is not None and factor_of(component) == "A"


def check_drawn(spec: ProxySpec, *, source: str) -> None:
    """Refuse factors that nobody can draw.

    Raises:
        ArtifactError: a rank below the proxy's, shapes that are no factor's, or more values than an adapter has.
    """
    if spec.drawn is None:
        return
    rank = spec.model.lora.rank
    if spec.drawn.rank < rank:
        raise ArtifactError(f"{source}: factors A are drawn with rank {spec.drawn.rank}, its own is {rank}")
    for name in _names(spec):
        shape = spec.shapes[name]
        if len(shape) != 2 or shape[0] != rank or not shape[1]:
            raise ArtifactError(f"{source}: component {name!r} is to be drawn with shape {list(shape)}")
    n_values = sum(math.prod(_whole(spec.drawn, name, spec.shapes[name])) for name in _names(spec))
    if n_values > _MAX_VALUES:
        raise ArtifactError(f"{source}: {n_values} values are to be drawn, {_MAX_VALUES} at most can be")


def draw(spec: ProxySpec, component: str) -> "Tensor":
    """A component that clients draw, float32 of the proxy's shape; `draw_all` also compares."""
    assert spec.drawn is not None  # noqa: S101  # `is_drawn` has said so
    shape = _whole(spec.drawn, component, spec.shapes[component])
    return first_terms(component, initial_value(component, shape, seed=spec.drawn.seed), spec.model.lora.rank)


def draw_all(spec: ProxySpec, *, source: str) -> "dict[str, Tensor]":
    """All of them, known to be those of the owner.

    Raises:
        ArtifactError: other values than the owner's, as another torch might draw.
    """
    if spec.drawn is None:
        return {}
    names = _names(spec)
    values = {
        name: initial_value(name, _whole(spec.drawn, name, spec.shapes[name]), seed=spec.drawn.seed) for name in names
    }
    if _digest(values) != spec.drawn.sha256:
        raise ArtifactError(
            f"{source}: factors A drawn here are not those of the owner", hint="the owner's version of torch"
        )
    return {name: first_terms(name, value, spec.model.lora.rank) for name, value in values.items()}


def drawn_of(master: TensorFile[MasterHeader]) -> DrawnFactors | None:
    """What to draw a master's factors A from; None where one is not as `init` drew it, as of an imported adapter."""
    import torch

    spec, shapes = master.header.spec, components_of(master)
    values: dict[str, Tensor] = {}
    for module in factor_modules(shapes):
        name = factor_a(module)
        values[name] = initial_value(name, shapes[name], seed=spec.seed)
        if not torch.equal(values[name], master.read(name)):
            return None
    return DrawnFactors(seed=spec.seed, rank=spec.model.lora.rank, sha256=_digest(values)) if values else None


def _names(spec: ProxySpec) -> list[str]:
    return [factor_a(module) for module in factor_modules(spec.shapes)]


def _whole(drawn: DrawnFactors, component: str, shape: Shape) -> Shape:
    return shape_of_rank(component, shape, drawn.rank)


def _digest(values: "dict[str, Tensor]") -> str:
    digest = hashlib.sha256()
    for _, value in sorted(values.items()):
        digest.update(value.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
