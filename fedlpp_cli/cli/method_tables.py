"""Methods as people read them."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts
from fedlpp_cli.records.methods import METHOD


def methods(result: Any) -> Iterable[Block]:
    """A paragraph for each; what they have in common behind them."""
    for one in result.methods:
        yield f"{one.name} (default)" if one.is_default else one.name
        yield facts([
            ("  paper", one.paper),
            ("  down", one.down),
            ("  up", one.up),
            ("  private", one.private),
            ("  cost", one.cost),
            ("  options", ", ".join(f"--{name.replace('_', '-')}" for name in one.options)),
        ])  # fmt: skip
    yield "costs: of a round, for a layer of m outputs and n inputs with an adapter of rank r, in numbers that travel"


def method_text(method: str | None) -> str | None:
    """A federation's method, where it is not the default."""
    return None if method == METHOD else method
