"""Which tensors a proxy's or an update's file holds for each component, and what they say.

Both are rounded in the same way: a proxy as `quantize` was told, and its control variates with it; an update as its
package asks. Loads no torch until values are read.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fedlpp_cli.adapters.control_tensors import control_name, with_control
from fedlpp_cli.adapters.drawn import check_drawn, draw, draw_all, is_drawn, sent_shapes
from fedlpp_cli.adapters.masks import mask_layout, row_factors
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError, LayoutError, NotFiniteError, UsageError
from fedlpp_cli.quantization.layout import Shape, parts_layout
from fedlpp_cli.records.headers import ProxyHeader, ProxySpec, UpdateHeader
from fedlpp_cli.records.specs import QuantSpec
from fedlpp_cli.records.tensor_groups import common_groups, unknown_groups

if TYPE_CHECKING:
    from torch import Tensor


def tensor_name(component: str, part: str) -> str:
    """Name in the file: `<component>.<part>`, or the component's own name where it lies whole."""
    return f"{component}.{part}" if part else component


def proxy_layout(shapes: Mapping[str, Shape], spec: QuantSpec) -> Layout:
    """Name to (dtype, shape) of every tensor in a proxy, or an update, of components of those shapes."""
    return {
        tensor_name(component, part): kind
        for component, shape in shapes.items()
        for part, kind in parts_layout(shape, spec.of(component)).items()
    }


def whole_layout(spec: ProxySpec) -> Layout:
    """Name to (dtype, shape) of every tensor in a proxy with that header: not what is drawn, masks and variates too."""
    sent = with_control(sent_shapes(spec), spec.control_variates)
    return {**proxy_layout(sent, spec.quantize), **mask_layout(spec.shapes, spec.mask)}


def read_component(proxy: TensorFile[ProxyHeader], component: str) -> "Tensor":
    """What the proxy says of a component, float32: masked rows are zero, and what is left is scaled.

    One that the proxy leaves to be drawn is drawn, and not compared.

    Raises:
        ArtifactError: no such component, or parts that do not fit together.
    """
    import torch

    shape, spec = shape_of(proxy, component), proxy.header.spec
    if is_drawn(spec, component):
        return draw(spec, component)
    value = _read_rounded(proxy, component, shape)
    factors = row_factors(proxy, component)
    return value if factors is None else value * torch.from_numpy(factors).float().unsqueeze(1)


def read_adapter(proxy: TensorFile[ProxyHeader]) -> "dict[str, Tensor]":
    """What the proxy says of every component, float32.

    Raises:
        ArtifactError: parts that do not fit together, or drawn values that are not the owner's.
    """
    spec = proxy.header.spec
    drawn = draw_all(spec, source=str(proxy.path))
    return {name: drawn[name] if name in drawn else read_component(proxy, name) for name in spec.shapes}


def read_control(proxy: TensorFile[ProxyHeader], component: str) -> "Tensor | None":
    """The owner's control variate of a component as the proxy says it, float32; None in a proxy without any.

    Raises:
        ArtifactError: as `read_component`.
    """
    shape = shape_of(proxy, component)
    return _read_rounded(proxy, control_name(component), shape) if proxy.header.spec.control_variates else None


def read_update(update: TensorFile[UpdateHeader], component: str, shape: Shape) -> "Tensor":
    """What the update says of a component, float32.

    Args:
        update: its layout has been checked.
        component: its name.
        shape: as the master has it; an update does not state it.

    Raises:
        NotFiniteError: numbers or scales that are not finite.
        ArtifactError: codes that no tensor gives.
    """
    parts = read_parts(update, component, shape)
    for part, tensor in parts.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            name = tensor_name(component, part)
            raise NotFiniteError(f"{update.path}: tensor {name!r} has values that are not finite")
    return _dequantize(update, component, parts, shape)


def check_proxy(proxy: TensorFile[ProxyHeader]) -> None:
    """Refuse a proxy whose tensors are not exactly those that its header announces.

    Raises:
        ArtifactError: naming the first difference, or more to draw than anybody could.
    """
    check_drawn(proxy.header.spec, source=str(proxy.path))
    expected = whole_layout(proxy.header.spec)
    found = layout_of(proxy.tensors)
    if found != expected:
        name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ArtifactError(
            f"{proxy.path}: tensor {name!r} is {found.get(name, 'missing')}, the header announces "
            f"{expected.get(name, 'none')}"
        )


def check_groups(components: Iterable[str], spec: QuantSpec) -> None:
    """Refuse a group of tensors that no component is in.

    Raises:
        UsageError: naming it, and those that one would name.
    """
    names = list(components)
    unknown = unknown_groups(spec.groups, names)
    if unknown:
        raise UsageError(
            f"--group {unknown[0]}: no tensor of the adapter is in it; there are {', '.join(common_groups(names))}"
        )


def check_same_layout(found: Layout, expected: Layout, *, source: str) -> None:
    """Refuse tensors that are not exactly the expected ones, by name, dtype and shape.

    Raises:
        LayoutError: naming the first difference.
    """
    for name in sorted({*found, *expected}):
        if name not in found:
            raise LayoutError(f"{source}: tensor {name!r} is missing")
        if name not in expected:
            raise LayoutError(f"{source}: tensor {name!r} is not part of this federation's adapter")
        if found[name] != expected[name]:
            raise LayoutError(f"{source}: tensor {name!r} is {_spell(found[name])}, {_spell(expected[name])} is needed")


Rounded = TensorFile[ProxyHeader] | TensorFile[UpdateHeader]


def shape_of(proxy: TensorFile[ProxyHeader], component: str) -> Shape:
    """The component's shape, as the header says it.

    Raises:
        ArtifactError: no such component.
    """
    shape = proxy.header.spec.shapes.get(component)
    if shape is None:
        raise ArtifactError(f"{proxy.path}: no component {component!r}")
    return shape


def _read_rounded(proxy: TensorFile[ProxyHeader], name: str, shape: Shape) -> "Tensor":
    return _dequantize(proxy, name, read_parts(proxy, name, shape), shape)


def read_parts(file: Rounded, component: str, shape: Shape) -> "dict[str, Tensor]":
    """The parts of a component as they lie in the file, by the names of `layout.parts_layout`."""
    spec = file.header.spec.quantize.of(component)
    return {part: file.read(tensor_name(component, part)) for part in parts_layout(shape, spec)}


def _dequantize(file: Rounded, component: str, parts: "Mapping[str, Tensor]", shape: Shape) -> "Tensor":
    from fedlpp_cli.quantization.tensors import dequantize_tensor

    try:
        return dequantize_tensor(parts, shape, file.header.spec.quantize.of(component))
    except ValueError as error:
        raise ArtifactError(f"{file.path}: component {component!r}: {error}") from None


def _spell(kind: tuple[str, Shape]) -> str:
    return f"{kind[0]} {list(kind[1])}"
