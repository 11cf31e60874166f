"""`aggregate`: a master and the updates of its round become the next master. No base model, no GPU."""

import math
from collections.abc import Sequence
from contextlib import ExitStack

from fedlpp_cli.adapters.master_tensors import MOMENTS, components_of, master_layout, n_parameters, steps_after
from fedlpp_cli.aggregation.fold import Fold
from fedlpp_cli.aggregation.gates import check_duplicates, check_lineage, refuse_all, update_norm
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.run_folder import report_beside
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.errors import FedlppError, LineageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import (
    AggregateReport,
    ClientContribution,
    MasterHeader,
    MasterSpec,
    ReportHeader,
    UpdateHeader,
)
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import RefLike, check_parent, federation_of, open_tensors
from fedlpp_cli.steps.packages import OpenPackage, open_package


class AggregateResult(Record, frozen=True, kw_only=True):
    """What `aggregate` made; with `dry_run` what it would make, and `sha256` and `report` are None.

    `optimizer_steps`: of the server optimizer, 1 where its state starts and 0 where it has none. `median_change`: as in
    the report.
    """

    path: str
    sha256: str | None
    report: str | None
    federation: str
    round: int
    aggregate: AggregateSpec
    optimizer_steps: int
    median_change: float | None
    n_clients: int
    n_examples: int
    clients: tuple[ClientContribution, ...]


def aggregate(
    master: RefLike,
    updates: Sequence[RefLike],
    *,
    packages: Sequence[RefLike],
    out: RefLike,
    spec: AggregateSpec | None = None,
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> AggregateResult:
    """Check every update, fold them, and move the full-precision adapter.

    The result depends on what the updates say, not on how they are named or listed: sums run in float64 in the order
    of the updates' sha256. Beside the master lies `<out>.report.json`.

    Args:
        master: the open round's, full precision.
        updates: what the clients sent.
        packages: what was sent to them: one for all, or one for each.
        out: where the next master goes: a path of the owner's.
        spec: update rule, server's learning rate, weighting.
        force: replace an existing output.
        dry_run: check everything and write nothing.
        on_progress: told what is going on.

    Raises:
        LineageError: an update of another federation, round, package, rounding or layout; a second one of a client.
        GateError: values that are not finite, nothing but zeros, or a norm above the package's limit.
        ArtifactError: a damaged file.
        SecrecyError: `out` is on the Hub.
        UsageError: more updates than this system lets a process open.
    """
    if not updates or not packages:
        raise UsageError("aggregate needs at least one update, and the package that it was trained on")
    allow_open_files(len(updates) + len(packages) + 1)
    target = parse_ref(out)
    with store.destination(target, message="", secret=True, force=force) as place, ExitStack() as files:
        opened = files.enter_context(open_tensors(master, MasterHeader))
        spec = spec or AggregateSpec()
        if spec.update_rule == 4 and opened.header.round >= (spec.n_rounds or 0):
            raise UsageError(f"--n-rounds {spec.n_rounds}: the master is already of round {opened.header.round}")
        sent = _open_sent(files, opened, packages)
        fold = _open_fold(files, opened, sent, updates, spec, on_progress)
        if dry_run:
            return _result(fold, path=str(target))
        header = _next_header(fold, sent)
        layout = master_layout(components_of(opened), MOMENTS[spec.server_optimizer])
        with write_tensors(place.path, header, layout, private=True, force=force) as writer:
            for number, (name, value) in enumerate(fold.values(), start=1):
                writer.write(name, value)
                on_progress("aggregating", number, len(layout))
        report = report_beside(place.path)
        sha256 = sha256_of_file(place.path)
        write_report(report, _report(fold, header, sha256), private=True, force=True)
        return _result(fold, path=str(target), sha256=sha256, report=str(report))


def _open_sent(files: ExitStack, master: TensorFile[MasterHeader], packages: Sequence[RefLike]) -> list[OpenPackage]:
    sent: list[OpenPackage] = []
    for ref in packages:
        package = open_package(ref)
        files.callback(package.proxy.close)
        check_parent(package.proxy.header, "master", master.sha256, source=package.name, parent=str(master.path))
        if sent and package.proxy.sha256 != sent[0].proxy.sha256:
            raise LineageError(f"{package.name} and {sent[0].name} hold different proxies of one master")
        sent.append(package)
    return sent


def _open_fold(
    files: ExitStack,
    master: TensorFile[MasterHeader],
    sent: Sequence[OpenPackage],
    updates: Sequence[RefLike],
    spec: AggregateSpec,
    on_progress: Progress,
) -> Fold:
    manifests = {package.folder.sha256: package.folder.header for package in sent}
    accepted: list[tuple[TensorFile[UpdateHeader], float]] = []
    problems: list[FedlppError] = []
    shapes = components_of(master)
    for number, ref in enumerate(updates, start=1):
        try:
            update = files.enter_context(open_tensors(ref, UpdateHeader))
            package = check_lineage(update, master, federation_of(master), manifests)
            accepted.append((update, update_norm(update, shapes, package.spec.train.max_update_norm)))
        except FedlppError as problem:
            problems.append(problem)
        on_progress("checking updates", number, len(updates))
    refuse_all(problems, len(updates))
    check_duplicates([update for update, _ in accepted])
    accepted.sort(key=lambda pair: pair[0].sha256)
    return Fold(master, sent[0].proxy, [update for update, _ in accepted], [norm for _, norm in accepted], spec)


def _next_header(fold: Fold, sent: Sequence[OpenPackage]) -> MasterHeader:
    before = fold.master.header.spec
    return MasterHeader(
        federation=federation_of(fold.master),
        round=fold.master.header.round + 1,
        parents={
            "master": (fold.master.sha256,),
            "package": tuple(sorted({package.folder.sha256 for package in sent})),
            "update": tuple(update.sha256 for update in fold.updates),
        },
        spec=MasterSpec(
            model=before.model,
            seed=before.seed,
            quantize=fold.proxy.header.spec.quantize,
            aggregate=fold.spec,
            optimizer_steps=steps_after(before, fold.spec),
            base_weights=before.base_weights,
        ),
    )


def _contributions(fold: Fold) -> tuple[ClientContribution, ...]:
    return tuple(
        ClientContribution(
            client=update.header.spec.client,
            update=update.sha256,
            n_examples=update.header.spec.metrics.n_examples,
            weight=six_digits(weight),
            update_norm=six_digits(norm),
            cosine=None if cosine is None else six_digits(cosine),
            loss_first=update.header.spec.metrics.loss_first,
            loss_last=update.header.spec.metrics.loss_last,
        )
        for update, weight, norm, cosine in zip(fold.updates, fold.weights, fold.norms, fold.cosines(), strict=True)
    )


def _report(fold: Fold, header: MasterHeader, sha256: str) -> ReportHeader:
    return ReportHeader(
        federation=header.federation,
        round=header.round,
        parents={"master": (sha256,)},
        spec=AggregateReport(
            aggregate=fold.spec,
            n_clients=len(fold.updates),
            n_tensors=len(components_of(fold.master)),
            n_parameters=n_parameters(components_of(fold.master)),
            mean_norm=six_digits(math.sqrt(fold.mean_squares)),
            step_norm=six_digits(math.sqrt(fold.step_squares)),
            median_change=fold.magnitudes.median(),
            clients=_contributions(fold),
        ),
    )


def _result(fold: Fold, *, path: str, sha256: str | None = None, report: str | None = None) -> AggregateResult:
    return AggregateResult(
        path=path,
        sha256=sha256,
        report=report,
        federation=federation_of(fold.master),
        round=fold.master.header.round + 1,
        aggregate=fold.spec,
        optimizer_steps=steps_after(fold.master.header.spec, fold.spec),
        median_change=fold.magnitudes.median(),
        n_clients=len(fold.updates),
        n_examples=sum(update.header.spec.metrics.n_examples for update in fold.updates),
        clients=_contributions(fold),
    )
