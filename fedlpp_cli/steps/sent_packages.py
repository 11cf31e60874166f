"""What an owner sent out in a round, opened again: packages that go together, of one master and one method."""

from collections.abc import Sequence
from contextlib import ExitStack

from fedlpp_cli.adapters.masks import check_masks
from fedlpp_cli.aggregation.control_variates import same_rate_sum
from fedlpp_cli.aggregation.gates import check_proxy_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.steps.inputs import RefLike, check_parent
from fedlpp_cli.steps.packages import OpenPackage, open_package
from fedlpp_cli.training.schedule import learning_rate_sum


def open_sent(files: ExitStack, master: TensorFile[MasterHeader], packages: Sequence[RefLike]) -> list[OpenPackage]:
    """Open and check the packages of a master's round; `files` closes them.

    Raises:
        LineageError: one that was not made from the master, or not by its method, or that does not go with another;
            masks of another federation.
        ArtifactError, DigestError, InputError: as `open_package`.
    """
    sent: list[OpenPackage] = []
    for ref in packages:
        package = open_package(ref)
        files.callback(package.proxy.close)
        check_parent(package.proxy.header, "master", master.sha256, source=package.name, parent=str(master.path))
        check_proxy_of(package.proxy, master, source=package.name)
        _check_method(package, master)
        check_masks(package.proxy, master, source=package.name)
        if package.proxy.header.spec.control_variates != master.header.spec.control_variates:
            raise LineageError(f"{package.name} and {master.path}: one has control variates, the other has none")
        for other in sent:
            _check_beside(package, other)
        sent.append(package)
    return sent


def check_ranks(spec: AggregateSpec, master: TensorFile[MasterHeader], sent: Sequence[OpenPackage]) -> None:
    """Refuse ranks that cannot be aggregated like that.

    Raises:
        UsageError: saying why.
    """
    full = master.header.spec.model.lora.rank
    for package in sent:
        rank = package.proxy.header.spec.model.lora.rank
        if spec.update_rule != 1 and rank != full:
            raise UsageError(
                f"--update-rule {spec.update_rule}: it drops what the proxy has not, and that in {package.name} has "
                f"rank {rank} of {full}",
                hint="--update-rule 1",
            )
        if package.folder.header.spec.train.control_variates and rank != full:
            raise UsageError(f"{package.name}: control variates go with rank {full}, the master's; this one has {rank}")


def rate_sum(sent: Sequence[OpenPackage]) -> float | None:
    """Of the clients' learning rates, as control variates need it; None in a round without."""
    found: list[tuple[str, float | None]] = []
    for package in sent:
        train = package.folder.header.spec.train
        steps = train.steps if train.control_variates else None
        found.append((package.name, None if steps is None else learning_rate_sum(train, steps)))
    return same_rate_sum(found)


def _check_method(package: OpenPackage, master: TensorFile[MasterHeader]) -> None:
    """Of one master, method and round give one plan, which is also what its proxies have to say."""
    ours, theirs = package.proxy.header, master.header
    if ours.method != theirs.method:
        raise LineageError(f"{package.name}: of method {ours.method!r}, the master has {theirs.method!r}")
    if ours.spec.drawn is not None and ours.spec.drawn.seed != theirs.spec.seed:
        raise LineageError(f"{package.name}: its factors A are drawn from another seed than the master's")
    method = method_of(theirs, source=str(master.path))
    reason = method.refuse(Asked(quantize=ours.spec.quantize, mask=ours.spec.mask or MaskSpec()))
    if reason is not None:
        raise LineageError(f"{package.name}: not of method {theirs.method}: {reason}")
    expected = method.plan(theirs.spec, theirs.round)
    if ours.spec.factors != expected:
        raise LineageError(
            f"{package.name}: its plan of factors ({ours.spec.factors.trains}) is not the one that method "
            f"{theirs.method!r} makes for round {theirs.round} ({expected.trains})"
        )


def _check_beside(package: OpenPackage, other: OpenPackage) -> None:
    """Of one round there is one rounding of the master, and one proxy for each rank, or with masks for each client."""
    ours, theirs = package.proxy.header, other.proxy.header
    if (ours.spec.model.lora.rank, ours.spec.client) != (theirs.spec.model.lora.rank, theirs.spec.client):
        one, two = ((header.spec.quantize, header.spec.mask, header.parents) for header in (ours, theirs))
        same = one == two
    else:
        same = package.proxy.sha256 == other.proxy.sha256
    if not same:
        raise LineageError(f"{package.name} and {other.name} hold different proxies of one master")
