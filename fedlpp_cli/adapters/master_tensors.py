"""Which tensors a master holds: components, and beside them what rounds remember. Loads no torch.

The state of a server optimizer for component `c` lies in `c.momentum` and `c.second_moment`, SCAFFOLD's control variate
in `c.control`, what a module withholds in tensors of `withheld.py`. Whatever walks through a master's tensors asks
`components_of`, so that none of them is taken for a component. An optimizer's state and what is withheld are never
rounded or sent; control variates are. Where clients are protected, `client_privacy.noise_key` is the key that the
round's noise came from: whoever has it can take the noise away again, so it is nowhere else.
"""

import math
from collections.abc import Mapping
from typing import Final

from fedlpp_cli.adapters.components import factor_modules
from fedlpp_cli.adapters.control_tensors import CONTROL
from fedlpp_cli.adapters.withheld import is_withheld, withheld_shapes
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import AggregateSpec, ServerOptimizer

MOMENTUM: Final = "momentum"
SECOND_MOMENT: Final = "second_moment"
NOISE_KEY: Final = "client_privacy.noise_key"
KEY_BYTES: Final = 32
# What each optimizer remembers of a component.
MOMENTS: Final[dict[ServerOptimizer, tuple[str, ...]]] = {
    "sgd": (),
    "momentum": (MOMENTUM,),
    "adagrad": (MOMENTUM, SECOND_MOMENT),
    "adam": (MOMENTUM, SECOND_MOMENT),
    "yogi": (MOMENTUM, SECOND_MOMENT),
}


def state_name(component: str, moment: str) -> str:
    """Name in the file."""
    return f"{component}.{moment}"


def master_layout(
    shapes: Mapping[str, Shape],
    states: tuple[str, ...] = (),
    withheld: Mapping[str, int] | None = None,
    *,
    has_noise: bool = False,
) -> Layout:
    """Name to (dtype, shape) of every tensor in a master.

    Args:
        shapes: component to shape.
        states: what lies beside each component.
        withheld: module to rank of what it withholds.
        has_noise: whether the key of a round's noise lies there.
    """
    components = {
        name: ("F32", shape)
        for component, shape in shapes.items()
        for name in (component, *(state_name(component, state) for state in states))
    }
    pairs = {name: ("F32", shape) for name, shape in withheld_shapes(shapes, withheld or {}).items()}
    return components | pairs | ({NOISE_KEY: ("U8", (KEY_BYTES,))} if has_noise else {})


def moments_in(spec: MasterSpec) -> tuple[str, ...]:
    """What a master with that header remembers of each component."""
    return MOMENTS[spec.aggregate.server_optimizer] if spec.aggregate and spec.optimizer_steps else ()


def states_in(spec: MasterSpec) -> tuple[str, ...]:
    """All that a master with that header has beside each component."""
    return (*moments_in(spec), CONTROL) if spec.control_variates else moments_in(spec)


def has_noise(spec: MasterSpec) -> bool:
    """Whether the round that made a master with that header added noise, whose key it then holds."""
    return spec.aggregate is not None and spec.aggregate.client_noise_multiplier is not None


def noise_key(master: TensorFile[MasterHeader]) -> bytes | None:
    """The key of the noise in a master; None where there is none. Not for anybody but its owner.

    Raises:
        ArtifactError: as `components_of`.
    """
    components_of(master)
    return master.read(NOISE_KEY).numpy().tobytes() if has_noise(master.header.spec) else None


def components_of(master: TensorFile[MasterHeader]) -> dict[str, Shape]:
    """Component to shape; a server optimizer's state, control variates, a key and what is withheld are left out.

    A tensor is a state if its name is that of another tensor and a moment, or `control`. No component has such a name:
    what it hangs from would be both a module and a parameter. What is withheld is told by the end of its name.

    Raises:
        ArtifactError: a tensor that is not in F32, or a state, a key or something withheld that the header does not
            announce, or that it announces and is not there.
    """
    spec = master.header.spec
    shapes = {
        name: info.shape
        for name, info in master.tensors.items()
        if not (is_withheld(name) or _is_state(name, master.tensors) or name == NOISE_KEY)
    }
    expected = master_layout(shapes, states_in(spec), spec.withheld, has_noise=has_noise(spec))
    found = layout_of(master.tensors)
    if found != expected:
        name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ArtifactError(
            f"{master.path}: tensor {name!r} is {found.get(name, 'missing')}, the header announces "
            f"{expected.get(name, 'none')}"
        )
    if strange := sorted(set(spec.withheld) - set(factor_modules(shapes))):
        raise ArtifactError(f"{master.path}: the header withholds something of {strange[0]!r}, which has no factors")
    return shapes


def n_parameters(shapes: Mapping[str, Shape]) -> int:
    """How many numbers components of those shapes have."""
    return sum(math.prod(shape) for shape in shapes.values())


def goes_on(before: MasterSpec, spec: AggregateSpec) -> bool:
    """Whether the next step uses the state in a master; that of another optimizer is left behind."""
    last = before.aggregate.server_optimizer if before.aggregate else "sgd"
    return bool(moments_in(before)) and last == spec.server_optimizer


def steps_after(before: MasterSpec, spec: AggregateSpec) -> int:
    """`optimizer_steps` of the next master: 0 without a state, 1 where one starts."""
    if not MOMENTS[spec.server_optimizer]:
        return 0
    return before.optimizer_steps + 1 if goes_on(before, spec) else 1


def _is_state(name: str, names: Mapping[str, object]) -> bool:
    stem, _, moment = name.rpartition(".")
    return moment in {MOMENTUM, SECOND_MOMENT, CONTROL} and stem in names
