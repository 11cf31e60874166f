"""What rounding does to a group of tensors when nothing else is rounded."""

from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from fedlpp_cli.adapters.components import FACTOR_A, FACTOR_B, module_of
from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.planning.probe import Change
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.plans import GroupBy, GroupRow
from fedlpp_cli.records.specs import Bits, QuantSpec
from fedlpp_cli.records.tensor_groups import is_in
from fedlpp_cli.rounding import six_digits


def tensor_groups(components: Iterable[str], by: GroupBy) -> tuple[str, ...]:
    """The groups, sorted, as `QuantSpec.groups` names them; none with "none".

    Modules that are trained whole are groups of their own, by their full names.
    """
    return () if by == "none" else tuple(sorted({_group_of(name, by) for name in components}))


def sensitivities(
    shapes: Mapping[str, Shape],
    groups: Iterable[str],
    widths: Iterable[Bits],
    rounding: Callable[[Bits], QuantSpec],
    measured: Callable[[QuantSpec], Change],
) -> tuple[GroupRow, ...]:
    """Each group at each width.

    Args:
        shapes: component to shape.
        groups: as `tensor_groups` has them.
        widths: to try.
        rounding: width to how all tensors would be rounded; only the group is.
        measured: what a rounding does.
    """
    found = []
    for group in groups:
        members = {name: shape for name, shape in shapes.items() if is_in(name, group)}
        for bits in widths:
            spec = replace(rounding(bits), bits="full", groups={group: bits})
            one = measured(spec)
            found.append(
                GroupRow(
                    group=group,
                    bits=bits,
                    n_bytes=layout_bytes(proxy_layout(members, spec)),
                    loss_increase=six_digits(one.loss_increase),
                    gradient_change=six_digits(one.gradient_change),
                    cosine=six_digits(one.cosine),
                    score=six_digits(one.score),
                )
            )
    return tuple(found)


def _group_of(component: str, by: GroupBy) -> str:
    module, factor = module_of(component), component.rpartition(".")[2]
    if factor not in {FACTOR_A, FACTOR_B}:
        return module
    if by == "factor":
        return factor
    parts = module.split(".")
    if by == "module":
        return parts[-1]
    number = next((index for index, part in enumerate(parts) if index and part.isdecimal()), None)
    return module if number is None else ".".join(parts[number - 1 : number + 1])
