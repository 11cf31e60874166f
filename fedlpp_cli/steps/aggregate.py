"""`aggregate`: a master and the updates of its round become the next master. No base model, no GPU."""

import math
from collections.abc import Sequence
from contextlib import ExitStack

from fedlpp_cli.adapters.master_tensors import MOMENTS, components_of, master_layout, n_parameters, steps_after
from fedlpp_cli.aggregation.fold import Fold
from fedlpp_cli.aggregation.products import product_norms
from fedlpp_cli.aggregation.rules import check_options
from fedlpp_cli.aggregation.threads import taken_from_torch
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.run_folder import report_beside
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import (
    MasterHeader,
    MasterSpec,
    ReportHeader,
)
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.reports import AggregateReport, ClientContribution, RejectedUpdate
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import RefLike, check_parent, federation_of, open_tensors
from fedlpp_cli.steps.intake import Intake, Rejection, take_in, take_reference
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
    rejected: tuple[Rejection, ...]


def aggregate(
    master: RefLike,
    updates: Sequence[RefLike],
    *,
    packages: Sequence[RefLike],
    out: RefLike,
    spec: AggregateSpec | None = None,
    reference: RefLike | None = None,
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
        spec: rule, clipping, update rule, server's learning rate, weighting, and how many updates must be sound.
        reference: the owner's own update, trained on one of the packages, for rule "fltrust".
        force: replace an existing output.
        dry_run: check everything and write nothing.
        on_progress: told what is going on.

    Raises:
        LineageError: an update of another federation, round, package, rounding or layout; a second one of a client.
        GateError: values that are not finite, nothing but zeros, a norm above the package's limit, or too few updates.
        ArtifactError: a damaged file.
        UsageError: a spec whose parts do not go together.
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
        check_options(spec, has_reference=reference is not None)
        threads = files.enter_context(taken_from_torch())
        intake = take_in(
            files, updates, opened, sent, min_clients=spec.min_clients, threads=threads, on_progress=on_progress
        )
        own = None if reference is None else take_reference(files, reference, opened, sent, intake.updates)
        fold = Fold(opened, sent[0].proxy, intake.updates, intake.norms, spec, threads, own)
        products = product_norms(fold.updates, fold.proxy, fold.shapes, threads=threads)
        if dry_run:
            return _result(fold, _contributions(fold, products), intake, path=str(target))
        header = _next_header(fold, sent)
        layout = master_layout(components_of(opened), MOMENTS[spec.server_optimizer])
        with write_tensors(place.path, header, layout, private=True, force=force) as writer:
            for number, (name, value) in enumerate(fold.values(), start=1):
                writer.write(name, value)
                on_progress("aggregating", number, len(layout))
        report = report_beside(place.path)
        sha256 = sha256_of_file(place.path)
        clients = _contributions(fold, products)
        write_report(report, _report(fold, clients, intake, header, sha256), private=True, force=True)
        return _result(fold, clients, intake, path=str(target), sha256=sha256, report=str(report))


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


def _next_header(fold: Fold, sent: Sequence[OpenPackage]) -> MasterHeader:
    before = fold.master.header.spec
    reference = {} if fold.reference is None else {"reference": (fold.reference[0].sha256,)}
    return MasterHeader(
        federation=federation_of(fold.master),
        round=fold.master.header.round + 1,
        parents={
            "master": (fold.master.sha256,),
            "package": tuple(sorted({package.folder.sha256 for package in sent})),
            "update": tuple(update.sha256 for update in fold.updates),
            **reference,
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


def _contributions(fold: Fold, products: Sequence[float]) -> tuple[ClientContribution, ...]:
    return tuple(
        ClientContribution(
            client=update.header.spec.client,
            update=update.sha256,
            n_examples=update.header.spec.metrics.n_examples,
            weight=six_digits(weight),
            update_norm=six_digits(norm),
            clip_factor=six_digits(factor),
            product_norm=six_digits(product),
            cosine=None if cosine is None else six_digits(cosine),
            loss_first=update.header.spec.metrics.loss_first,
            loss_last=update.header.spec.metrics.loss_last,
        )
        for update, weight, norm, factor, product, cosine in zip(
            fold.updates, fold.weights, fold.norms, fold.clip_factors, products, fold.cosines(), strict=True
        )
    )


def _report(
    fold: Fold, clients: tuple[ClientContribution, ...], intake: Intake, header: MasterHeader, sha256: str
) -> ReportHeader:
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
            clients=clients,
            rejected=tuple(_without_path(one) for one in intake.rejected),
        ),
    )


def _without_path(rejection: Rejection) -> RejectedUpdate:
    return RejectedUpdate(
        client=rejection.client, update=rejection.update, code=rejection.code, reason=rejection.reason
    )


def _result(
    fold: Fold,
    clients: tuple[ClientContribution, ...],
    intake: Intake,
    *,
    path: str,
    sha256: str | None = None,
    report: str | None = None,
) -> AggregateResult:
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
        clients=clients,
        rejected=intake.rejected,
    )
