"""T5: who has updates does what the owner does with them, and comes to the owner's model.

All updates of all rounds are what a coalition of all clients has, and whoever reads updates that are not sealed. Sealed
updates leave to a coalition its own.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import torch
from msgspec.structs import replace

from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.adapters.trained import trained_shapes
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import FedlppError, GateError, UsageError
from fedlpp_cli.leakage.averaging import Values, compress
from fedlpp_cli.leakage.knowledge import half_of, packages
from fedlpp_cli.leakage.replay import Round, replay_products, replay_rounds
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.steps.audit_attacks import MAX_RANKS, Case, Rows
from fedlpp_cli.steps.audit_judge import Judge

# With more, a coalition is told by its size.
_MAX_NAMES: Final = 4


class _MissingError(GateError):
    """Updates that a replay needs are not there."""


@dataclass(frozen=True, slots=True)
class _Coalition:
    """Whose updates are known; None for everybody's."""

    members: Collection[str] | None

    def has(self, update: TensorFile[UpdateHeader]) -> bool:
        """Whether this update is known."""
        return self.members is None or update.header.spec.client in self.members


def add_up(case: Case, judge: Judge) -> Rows:
    """Rows for a coalition of all, for an outsider who reads everything, and for half the clients."""
    n_rounds = case.history.central.header.round
    clients = sorted({client for of_round in case.history.updates.values() for client in of_round})
    everybody = case.idea(
        "replay", "coalition of all", f"{packages(n_rounds + 1)}, and all updates: all {len(clients)} clients together"
    )
    outsider = dataclasses.replace(
        everybody, variant="updates not sealed", knows=f"{packages(n_rounds + 1)}, and all updates, read on their way"
    )
    half = half_of(clients)
    whose = ", ".join(half) if len(half) <= _MAX_NAMES else f"{len(half)} of {len(clients)} clients"
    some = dataclasses.replace(
        everybody,
        variant="updates sealed, coalition of half",
        knows=f"{packages(n_rounds + 1)}, and the updates of {whose} alone",
    )
    try:
        _, row = judge.at_once(everybody, _replayed(case, _Coalition(None)))
        yield from (row, replace(row, variant=outsider.variant, knows=outsider.knows))
    except (UsageError, GateError) as error:
        yield from (everybody.skipped(str(error)), outsider.skipped(str(error)))
    if not half:
        yield some.skipped("fewer than two clients are known")
        return
    try:
        yield judge.at_once(some, _replayed(case, _Coalition(half)))[1]
    except (UsageError, GateError) as error:
        yield some.skipped(str(error))


def _replayed(case: Case, coalition: _Coalition) -> Values:
    n_rounds = case.history.central.header.round
    if not n_rounds:
        raise _MissingError("no round has been aggregated: there are no updates yet")
    rounds = [_round(case, number, coalition) for number in range(n_rounds)]
    if not case.history.makes_anew:
        return replay_rounds(case.snapshots[0], rounds)
    rank = case.history.central.header.spec.model.lora.rank
    return compress(replay_products(case.snapshots[0], rounds), rank * (1 + min(n_rounds, MAX_RANKS)))


def _round(case: Case, number: int, coalition: _Coalition) -> Round:
    """What the coalition has of a round.

    Raises:
        UsageError, GateError: it has nothing, or not what it would take.
    """
    spec = _aggregation(case, number)
    _check_method(case, number, spec)
    known = [update for update in _used(case, number) if coalition.has(update)]
    if not known:
        raise _MissingError(f"none of its updates is of round {number}")
    if spec.weighting == "product-norm":
        raise UsageError("weights by norms of products are not replayed")
    weights = client_weights(
        [update.header.spec.metrics.n_examples for update in known],
        weighting=spec.weighting,
        max_examples=spec.max_examples,
        max_share=spec.max_share,
    )
    return Round(number, case.snapshots[number], [_values(case, number, update) for update in known], weights, spec)


def _check_method(case: Case, number: int, spec: AggregateSpec) -> None:
    """Refuse what a method does with a round that the sum of its updates does not tell.

    Raises:
        UsageError: one factor stays where the owner's step would move it.
    """
    proxy = case.history.sent[number].proxy
    is_whole = trained_shapes(proxy.header.spec.shapes, proxy.header.spec.factors) == proxy.header.spec.shapes
    if not is_whole and (spec.update_rule, spec.server_optimizer) != (1, "sgd"):
        raise UsageError("rounds that train one factor are replayed with update rule 1, without a server optimizer")


def _aggregation(case: Case, number: int) -> AggregateSpec:
    """How the owner aggregated a round."""
    following = case.history.masters.get(number + 1, case.history.central)
    return following.header.spec.aggregate or AggregateSpec()


def _used(case: Case, number: int) -> list[TensorFile[UpdateHeader]]:
    """The updates that the next master was made from, in order of their sha256.

    Raises:
        GateError: some of them are not there.
    """
    there = sorted(case.history.updates.get(number, {}).values(), key=lambda update: update.sha256)
    following = case.history.masters.get(number + 1)
    wanted = None if following is None else set(following.header.parents.get("update", ()))
    used = [update for update in there if wanted is None or update.sha256 in wanted]
    if not used or (wanted is not None and len(used) < len(wanted)):
        of_all = f" of {len(wanted)}" if wanted else ""
        raise _MissingError(f"{len(used)}{of_all} updates of round {number} are there")
    return used


def _values(case: Case, number: int, update: TensorFile[UpdateHeader]) -> Values:
    """What an update says, of the rank of the proxy that it was trained from."""
    newest = case.history.sent[number].proxy.header.spec.shapes
    shapes = case.history.shapes.get(str(update.header.parent("proxy")), newest)
    moved = trained_shapes(shapes, case.history.sent[number].proxy.header.spec.factors)
    try:
        return {
            name: read_update(update, name, shape) if name in moved else torch.zeros(shape)
            for name, shape in shapes.items()
        }
    except FedlppError as error:
        raise _MissingError(f"an update cannot be read: {error}") from None
