"""What must be true of every update before any arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.proxy_tensors import check_same_layout, proxy_layout
from fedlpp_cli.adapters.ranks import lora_of_rank, shapes_of_rank
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of
from fedlpp_cli.errors import (
    DuplicateUpdateError,
    FedlppError,
    LineageError,
    OtherClientError,
    ReplayError,
)
from fedlpp_cli.records.headers import MasterHeader, PackageHeader, ProxyHeader, UpdateHeader
from fedlpp_cli.records.specs import QuantSpec

Update = TensorFile[UpdateHeader]


@dataclass(frozen=True, slots=True)
class Sent:
    """What went out to clients: a package's manifest and the proxy in it."""

    manifest: PackageHeader
    proxy: TensorFile[ProxyHeader]


def check_proxy_of(proxy: TensorFile[ProxyHeader], master: TensorFile[MasterHeader], *, source: str) -> None:
    """Refuse a proxy that is not the master's adapter, or its first terms.

    Raises:
        LineageError: a rank above the master's, other components, or another scaling.
    """
    ours, theirs = master.header.spec.model.lora, proxy.header.spec.model.lora
    if theirs.rank > ours.rank:
        raise LineageError(f"{source}: its proxy has rank {theirs.rank}, the master {ours.rank}")
    expected = shapes_of_rank(components_of(master), theirs.rank)
    if theirs != lora_of_rank(ours, theirs.rank) or proxy.header.spec.shapes != expected:
        raise LineageError(f"{source}: its proxy is not of the master's adapter, nor of the first terms of it")


def check_lineage(
    update: Update, master: TensorFile[MasterHeader], federation: str, packages: Mapping[str, Sent]
) -> Sent:
    """What an update was trained on; an update that does not belong into this round is refused.

    Args:
        update: what a client sent.
        master: the open round's.
        federation: its name.
        packages: sha256 of a package to what it holds, of those that went out in this round.

    Raises:
        ReplayError: other federation, round, method or package.
        OtherClientError, LayoutError, LineageError: other client, layout or rounding.
    """
    source, header = str(update.path), update.header
    if header.federation != federation:
        raise ReplayError(f"{source}: of federation {(header.federation or '')[:12]}…, this one is {federation[:12]}…")
    if header.round != master.header.round:
        raise ReplayError(f"{source}: of round {header.round}, the master is of round {master.header.round}")
    if header.method != master.header.method:
        raise ReplayError(f"{source}: of method {header.method!r}, the master has {master.header.method!r}")
    package = packages.get(header.parent("package") or "")
    if package is None:
        raise ReplayError(f"{source}: trained on a package other than those of this round")
    check_answers(header, package.manifest, source=source)
    check_scores(header, package.proxy.header, source=source)
    expected = proxy_layout(update_shapes(package.proxy.header.spec), header.spec.quantize)
    check_same_layout(layout_of(update.tensors), expected, source=source)
    return package


def check_scores(update: UpdateHeader, proxy: ProxyHeader, *, source: str) -> None:
    """Refuse an update that does not score exactly the modules that its proxy asks about.

    Raises:
        LineageError: naming the first difference.
    """
    asked = {*proxy.spec.factors.modules} if proxy.spec.factors.scores else set[str]()
    odd = sorted(asked ^ {*update.spec.scores})
    if odd:
        verb = "has no" if odd[0] in asked else "has a"
        raise LineageError(f"{source}: it {verb} score of module {odd[0]!r}; its proxy asks for {len(asked)} of them")


def check_answers(update: UpdateHeader, package: PackageHeader, *, source: str) -> None:
    """Refuse an update that is not what its package asked for.

    Raises:
        OtherClientError: of another client.
        LineageError: rounded in another way, or trained in another way where control variates depend on it.
    """
    if package.spec.client not in (None, update.spec.client):
        raise OtherClientError(
            f"{source}: of {update.spec.client!r}, trained on the package of {package.spec.client!r}"
        )
    train = package.spec.train
    if update.spec.control_variates != train.control_variates:
        found, asked = ("with" if yes else "without" for yes in (update.spec.control_variates, train.control_variates))
        raise LineageError(f"{source}: trained {found} control variates, its package asks for training {asked}")
    if train.control_variates and update.spec.metrics.n_steps != train.steps:
        raise LineageError(f"{source}: of {update.spec.metrics.n_steps} steps, its package asks for {train.steps}")
    for field in QuantSpec.__struct_fields__:
        found, asked = getattr(update.spec.quantize, field), getattr(package.spec.update, field)
        if found != asked:
            raise LineageError(f"{source}: rounded with {field} {found!r}, its package asks for {asked!r}")


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
