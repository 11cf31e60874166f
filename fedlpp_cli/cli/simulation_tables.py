"""Simulations as people read them."""

from collections.abc import Iterable
from typing import Any, Final

from fedlpp_cli.cli.blocks import Block, facts, number, short, size, table

# With more, what they have in common is shown.
_MAX_CLIENTS: Final = 20


def simulation(result: Any) -> Iterable[Block]:
    """What was played, or with `plan` what would be."""
    yield facts([
        ("federation", short(result.federation)),
        ("round", result.round),
        ("sha256", short(result.sha256)),
        ("attack", None if result.attack is None else _attack(result.attack)),
    ])  # fmt: skip
    if result.plan is not None:
        yield from _plan(result.plan)
        return
    rows = (
        (
            one.round, short(one.master), one.n_clients, one.n_trained, one.n_examples, number(one.loss_first),
            number(one.loss_last),
        )
        for one in result.rounds
    )  # fmt: skip
    if result.rounds:
        yield table(
            ("round", "ends in", "clients", "trained", "examples", "loss first", "loss last"), rows, text_columns=2
        )


def _attack(attack: Any) -> str:
    """What was resolved, fields that mean nothing left out."""
    given = [
        f"{name.replace('_', ' ')} {getattr(attack, name)}"
        for name in ("scale", "trigger", "target_label", "poisoned_share")
        if getattr(attack, name) is not None
    ]
    return ", ".join([f"{attack.attack} by {attack.n_attackers} clients", *given])


def _plan(plan: Any) -> Iterable[Block]:
    counts = sorted(one.n_examples for one in plan.clients)
    middle, steps = counts[len(counts) // 2], sorted({one.n_steps for one in plan.clients})
    yield facts([
        ("rounds left", plan.n_rounds),
        ("clients", f"{len(plan.clients)}, {plan.clients_per_round} a round"),
        ("attackers", ", ".join(plan.attackers) if 0 < len(plan.attackers) <= _MAX_CLIENTS else None),
        ("reference", plan.reference),
        ("examples", f"{sum(counts)}; a client has {counts[0]} to {counts[-1]}, in the middle {middle}"),
        ("steps", f"{' to '.join(map(str, sorted({steps[0], steps[-1]})))} a client and round"),
        ("down", f"{size(plan.bytes_down)} to each client, {size(plan.bytes_down * plan.clients_per_round)} a round"),
        ("up", f"{size(plan.bytes_up)} from each client, {size(plan.bytes_up * plan.clients_per_round)} a round"),
    ])  # fmt: skip
    if len(plan.clients) <= _MAX_CLIENTS:
        yield table(
            ("client", "examples", "steps"), ((one.client, one.n_examples, one.n_steps) for one in plan.clients)
        )
    yield "dry run: nothing was done"
