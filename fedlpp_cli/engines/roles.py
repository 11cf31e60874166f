"""Who is who in a simulation: clients, those of them who are against the owner, and the owner itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.randomness import numpy_draws


@dataclass(frozen=True, slots=True)
class Roles:
    """`clients`: who may take part in rounds, in order; `attackers` are among them, `reference` is not."""

    clients: tuple[str, ...]
    attackers: frozenset[str]
    reference: str | None


def assign_roles(names: Sequence[str], *, attack: AttackSpec | None, reference: str | None, seed: int) -> Roles:
    """The attackers are the first of a permutation that depends on seed and names: fewer are among more.

    Args:
        names: everybody that there is data of.
        attack: says how many attackers there are; None for none.
        reference: whose data is the owner's, None for nobody's.
        seed: of the federation.

    Raises:
        UsageError: no such reference, or nobody honest left.
    """
    if reference is not None and reference not in names:
        raise UsageError(f"--reference {reference!r}: no such client; there are {shorten(', '.join(names), 80)}")
    clients = tuple(name for name in names if name != reference)
    n_attackers = 0 if attack is None else attack.n_attackers
    if reference is not None and not clients:
        raise UsageError(f"--reference {reference!r}: there is no other client")
    if n_attackers and n_attackers >= len(clients):
        raise UsageError(f"--n-attackers {n_attackers}: there are {len(clients)} clients, one of them must be honest")
    order = numpy_draws(seed, "attackers").permutation(len(clients))
    return Roles(clients, frozenset(clients[index] for index in order[:n_attackers]), reference)
