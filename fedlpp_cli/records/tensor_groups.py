"""Groups of an adapter's tensors, each rounded to a width of its own.

A group is one or more whole parts of component names, one behind the other as they stand there: "lora_B" is every
factor B, "q_proj" or "attention.query" a module in all layers, "layers.0" all of a layer, "q_proj.lora_A" one factor,
a component's full name that component. Names are literal, never patterns. A component that is in several groups has the
width of the one with the most parts, and of equally many of the one that ends last in its name.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

WidthT = TypeVar("WidthT")


def is_in(component: str, group: str) -> bool:
    """Whether the group's parts stand in the component's name."""
    return f".{group}." in f".{component}."


def width_of(component: str, groups: Mapping[str, WidthT], otherwise: WidthT) -> WidthT:
    """The component's width: that of the most specific group it is in, else `otherwise`."""
    found = [group for group in groups if is_in(component, group)]
    return groups[max(found, key=lambda group: _rank(component, group))] if found else otherwise


def unknown_groups(groups: Iterable[str], components: Iterable[str]) -> list[str]:
    """The groups that no component is in, sorted."""
    names = list(components)
    return sorted(group for group in groups if not any(is_in(name, group) for name in names))


def common_groups(components: Iterable[str]) -> list[str]:
    """Groups that one would name: factors or parameters, modules in all layers, and factors of those."""
    parts = [name.split(".") for name in components]
    return sorted({".".join(part[slice(*cut)]) for part in parts for cut in ((-1, None), (-2, -1), (-2, None))} - {""})


def spell_widths(bits: str, groups: Mapping[str, str]) -> str:
    """For people: "3 bits, lora_B 4 bits"."""
    return ", ".join([_spell(bits), *(f"{group} {_spell(width)}" for group, width in sorted(groups.items()))])


def _spell(bits: str) -> str:
    return {"full": "full precision", "ternary": "ternary"}.get(bits, f"{bits} bits")


def _rank(component: str, group: str) -> tuple[int, int]:
    return group.count("."), f".{component}.".rfind(f".{group}.") + len(group)
