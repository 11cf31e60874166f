"""Which tensors a proxy's file holds for each component, and what they say. Loads no torch until values are read."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.layout import Shape, parts_layout
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import QuantSpec

if TYPE_CHECKING:
    from torch import Tensor


def tensor_name(component: str, part: str) -> str:
    """Name in the file: `<component>.<part>`, or the component's own name where it lies whole."""
    return f"{component}.{part}" if part else component


def proxy_layout(shapes: Mapping[str, Shape], spec: QuantSpec) -> Layout:
    """Name to (dtype, shape) of every tensor in a proxy of components of those shapes."""
    return {
        tensor_name(component, part): kind
        for component, shape in shapes.items()
        for part, kind in parts_layout(shape, spec).items()
    }


def read_component(proxy: TensorFile[ProxyHeader], component: str) -> "Tensor":
    """What the proxy says of a component, float32.

    Raises:
        ArtifactError: no such component, or parts that do not fit together.
    """
    from fedlpp_cli.quantization.tensors import dequantize_tensor

    shape = proxy.header.spec.shapes.get(component)
    if shape is None:
        raise ArtifactError(f"{proxy.path}: no component {component!r}")
    spec = proxy.header.spec.quantize
    parts = {part: proxy.read(tensor_name(component, part)) for part in parts_layout(shape, spec)}
    try:
        return dequantize_tensor(parts, shape, spec)
    except ValueError as error:
        raise ArtifactError(f"{proxy.path}: component {component!r}: {error}") from None


def check_proxy(proxy: TensorFile[ProxyHeader]) -> None:
    """Refuse a proxy whose tensors are not exactly those that its header announces.

    Raises:
        ArtifactError: naming the first difference.
    """
    expected = proxy_layout(proxy.header.spec.shapes, proxy.header.spec.quantize)
    found = layout_of(proxy.tensors)
    if found != expected:
        name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ArtifactError(
            f"{proxy.path}: tensor {name!r} is {found.get(name, 'missing')}, the header announces "
            f"{expected.get(name, 'none')}"
        )
