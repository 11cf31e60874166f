"""Which components a round trains, and which of them at a step. Loads no torch."""

from collections.abc import Iterable, Mapping
from typing import Final

from fedlpp_cli.adapters.components import FACTOR_A, FACTOR_B, factor_modules, module_of
from fedlpp_cli.errors import LineageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import ProxySpec
from fedlpp_cli.records.methods import Factor, FactorPlan

# Of steps from 0.
_TURNS: Final[tuple[Factor, Factor]] = ("B", "A")


def factor_of(component: str) -> Factor | None:
    """Which factor a component is; None for what is trained whole."""
    last = component.rpartition(".")[2]
    return "A" if last == FACTOR_A else "B" if last == FACTOR_B else None


def trained_shapes(shapes: Mapping[str, Shape], plan: FactorPlan) -> dict[str, Shape]:
    """Component to shape of what a round trains, which is what its updates hold; in the order given."""
    return {name: shape for name, shape in shapes.items() if _is_trained(name, plan)}


def update_shapes(proxy: ProxySpec) -> dict[str, Shape]:
    """Component to shape of what an update of that proxy holds."""
    return trained_shapes(proxy.shapes, proxy.factors)


def trained_at(components: Iterable[str], plan: FactorPlan, step: int) -> set[str]:
    """What moves at a step, from 0."""
    turn = _TURNS[step % 2] if plan.trains == "steps" else None
    return {
        name for name in components if _is_trained(name, plan) and (turn is None or factor_of(name) in (turn, None))
    }


def check_plan(plan: FactorPlan, components: Iterable[str], *, source: str) -> None:
    """Refuse a plan by modules that is not about exactly the modules that have factors.

    Raises:
        LineageError: naming the first difference.
    """
    if plan.trains != "modules":
        return
    odd = sorted({*plan.modules} ^ {*factor_modules(components)})
    if odd:
        raise LineageError(f"{source}: its plan of factors and its adapter differ in module {odd[0]!r}")


def _is_trained(component: str, plan: FactorPlan) -> bool:
    factor = factor_of(component)
    match plan.trains:
        case "both" | "steps":
            return True
        case "modules":
            return factor is None or factor == plan.modules.get(module_of(component))
        case chosen:
            return factor in (None, chosen)
