"""Which tensors a client's state holds: for each component what rounding took from its updates. Loads no torch.

With control variates, the client's own lies beside each residual.
"""

from collections.abc import Mapping
from typing import Final

from fedlpp_cli.adapters.control_tensors import control_name
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import StateHeader

_SUFFIX: Final = ".residual"


def residual_name(component: str) -> str:
    """Name in the file."""
    return component + _SUFFIX


def state_layout(shapes: Mapping[str, Shape], control_variates: bool) -> Layout:
    """Name to (dtype, shape) of every tensor in a state for components of those shapes."""
    return {
        name: ("F32", shape)
        for component, shape in shapes.items()
        for name in (residual_name(component), control_name(component))[: 1 + control_variates]
    }


def residual_shapes(layout: Layout) -> dict[str, Shape]:
    """Component to shape, of a state with that layout."""
    return {name.removesuffix(_SUFFIX): shape for name, (_, shape) in layout.items() if name.endswith(_SUFFIX)}


def check_state(state: TensorFile[StateHeader]) -> None:
    """Refuse a state that holds anything but residuals and the control variates that its header announces.

    Raises:
        ArtifactError: naming the first other tensor, or one that is missing.
    """
    found, control = layout_of(state.tensors), state.header.spec.control_variates
    expected, held = state_layout(residual_shapes(found), control), "residuals" + " and control variates" * control
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            what = found[name][0] if name in found else "missing"
            raise ArtifactError(f"{state.path}: tensor {name!r} is {what}; a state holds {held}, in F32")
