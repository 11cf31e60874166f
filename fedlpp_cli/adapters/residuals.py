"""Which tensors a client's state holds: for each component what rounding took from its updates. Loads no torch."""

from collections.abc import Mapping
from typing import Final

from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import StateHeader

_SUFFIX: Final = ".residual"


def residual_name(component: str) -> str:
    """Name in the file."""
    return component + _SUFFIX


def residual_layout(shapes: Mapping[str, Shape]) -> Layout:
    """Name to (dtype, shape) of every tensor in a state for components of those shapes."""
    return {residual_name(component): ("F32", shape) for component, shape in shapes.items()}


def residual_shapes(layout: Layout) -> dict[str, Shape]:
    """Component to shape, of a state with that layout."""
    return {name.removesuffix(_SUFFIX): shape for name, (_, shape) in layout.items() if name.endswith(_SUFFIX)}


def check_state(state: TensorFile[StateHeader]) -> None:
    """Refuse a state that holds anything but residuals.

    Raises:
        ArtifactError: naming the first other tensor.
    """
    found = layout_of(state.tensors)
    expected = residual_layout(residual_shapes(found))
    for name in sorted(found):
        if found[name] != expected.get(name):
            dtype = found[name][0]
            raise ArtifactError(f"{state.path}: tensor {name!r} is {dtype}; a state holds residuals, in F32")
