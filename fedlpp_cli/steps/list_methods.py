"""`methods`: the published answers that a federation can go by. Loads no torch."""

from fedlpp_cli.methods.table import METHODS
from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.record import Record


class MethodEntry(Record, frozen=True, kw_only=True):
    """One method. `down`, `up`: what travels to each client and back; `private`: what stays at the owner's.

    `cost`: of a round, for a layer of m outputs and n inputs with an adapter of rank r: how many numbers travel, and
    what else is computed. `options`: what can be set about it, at `init`.
    """

    name: str
    paper: str
    down: str
    up: str
    private: str
    cost: str
    options: tuple[str, ...]
    is_default: bool


class MethodsResult(Record, frozen=True, kw_only=True):
    """All of them, the default first."""

    methods: tuple[MethodEntry, ...]


def list_methods() -> MethodsResult:
    """List the methods."""
    return MethodsResult(
        methods=tuple(
            MethodEntry(
                name=one.name,
                paper=one.paper,
                down=one.down,
                up=one.up,
                private=one.private,
                cost=one.cost,
                options=one.options,
                is_default=one.name == METHOD,
            )
            for one in METHODS
        )
    )
