"""What must be true of every update before any arithmetic."""

import math
from collections.abc import Sequence

from fedlpp_cli.adapters.components import check_same_layout
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import DuplicateUpdateError, FedlppError, GateError, LineageError
from fedlpp_cli.records.headers import MasterHeader, PackageHeader, UpdateHeader

Update = TensorFile[UpdateHeader]


def check_lineage(
    update: Update, master: TensorFile[MasterHeader], federation: str, packages: dict[str, PackageHeader]
) -> PackageHeader:
    """The package that an update was trained on; an update that does not belong into this round is refused.

    Args:
        update: what a client sent.
        master: the open round's.
        federation: its name.
        packages: sha256 to manifest of the packages that went out in this round.

    Raises:
        LineageError: other federation, round, method, package, client or layout.
    """
    source, header = str(update.path), update.header
    if header.federation != federation:
        raise LineageError(f"{source}: of federation {(header.federation or '')[:12]}…, this one is {federation[:12]}…")
    if header.round != master.header.round:
        raise LineageError(f"{source}: of round {header.round}, the master is of round {master.header.round}")
    if header.method != master.header.method:
        raise LineageError(f"{source}: of method {header.method!r}, the master has {master.header.method!r}")
    package = packages.get(header.parent("package") or "")
    if package is None:
        raise LineageError(f"{source}: trained on a package other than those of this round")
    if package.spec.client not in (None, header.spec.client):
        raise LineageError(f"{source}: of {header.spec.client!r}, trained on the package of {package.spec.client!r}")
    check_same_layout(update.tensors, master.tensors, source=source)
    return package


def check_duplicates(updates: Sequence[Update]) -> None:
    """Refuse two updates of one client, equal or not.

    Raises:
        DuplicateUpdateError: naming both files.
    """
    seen: dict[str, Update] = {}
    for update in updates:
        client = update.header.spec.client
        if client in seen:
            raise DuplicateUpdateError(f"{update.path} and {seen[client].path}: two updates of client {client!r}")
        seen[client] = update


def update_norm(update: Update, max_update_norm: float | None) -> float:
    """L2 norm over all tensors, float64 inside.

    Raises:
        GateError: a value that is not finite, all zeros, or a norm above the limit.
    """
    squares = 0.0
    for name in update.tensors:
        square = update.read(name).double().square().sum().item()
        if not math.isfinite(square):
            raise GateError(f"{update.path}: tensor {name!r} has values that are not finite")
        squares += square
    norm = math.sqrt(squares)
    if norm == 0.0:
        raise GateError(f"{update.path}: all values are zero, nothing was trained")
    if max_update_norm is not None and norm > max_update_norm:
        raise GateError(f"{update.path}: norm {norm:.4g}, the package allows {max_update_norm:.4g}")
    return norm


def refuse_all(problems: Sequence[FedlppError], n_updates: int) -> None:
    """Raise one error for all refused updates, of the first one's class.

    Raises:
        FedlppError: if there is any problem.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise type(problems[0])(f"{len(problems)} of {n_updates} updates are refused:{lines}")
