"""Where SCAFFOLD's control variates lie: beside each component, in a tensor of its shape. Loads no torch.

`c.control` of component `c` is the owner's in a master and in a proxy, the client's own in a state. No component has
such a name: what it hangs from would be both a module and a parameter.
"""

from collections.abc import Mapping
from typing import Final

from fedlpp_cli.quantization.layout import Shape

CONTROL: Final = "control"


def control_name(component: str) -> str:
    """Name in the file."""
    return f"{component}.{CONTROL}"


def with_control(shapes: Mapping[str, Shape], present: bool) -> dict[str, Shape]:
    """Name to shape of components and, where a header announces them, of their control variates behind each."""
    return {
        name: shape
        for component, shape in shapes.items()
        for name in ((component, control_name(component)) if present else (component,))
    }
