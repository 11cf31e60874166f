"""`aggregate`: a master and the updates of its round become the next master. No base model, no GPU."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fedlpp_cli.adapters.master_tensors import n_parameters, steps_after
from fedlpp_cli.aggregation.fold import Fold
from fedlpp_cli.aggregation.masks import check_mask_options
from fedlpp_cli.aggregation.products import product_norms
from fedlpp_cli.aggregation.rules import check_options
from fedlpp_cli.aggregation.threads import one_thread
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.run_folder import report_beside
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.finish import finished
from fedlpp_cli.methods.method import Answers, Asked
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import MasterHeader, ReportHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorScores
from fedlpp_cli.records.privacy import ClientPrivacy
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.reports import AggregateReport, ClientContribution, RejectedUpdate
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.client_privacy import (
    charge_client_privacy,
    check_client_privacy,
    noise_of,
    planned_privacy,
)
from fedlpp_cli.steps.inputs import RefLike, federation_of, open_tensors
from fedlpp_cli.steps.intake import Intake, Rejection, take_in, take_reference
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.steps.sent_packages import check_ranks, open_sent, rate_sum


class AggregateResult(Record, frozen=True, kw_only=True):
    """What `aggregate` made; with `dry_run` what it would make, and `sha256` and `report` are None.

    `optimizer_steps`: of the server optimizer, 1 where its state starts and 0 where it has none. `median_change`: as in
    the report, and so `withheld_norm`. `aggregate`: as the next master has it, with `n_population` where control
    variates need one. `client_privacy`: what protects whole clients, None for nothing.
    """

    path: str
    sha256: str | None
    report: str | None
    federation: str
    round: int
    aggregate: AggregateSpec
    optimizer_steps: int
    median_change: float | None
    withheld_norm: float | None
    client_privacy: ClientPrivacy | None
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
    privacy_ledger: Path | str | None = None,
    noise_key: bytes | None = None,
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
        packages: what was sent to them: one for all, or one for each; their proxies may have different ranks.
        out: where the next master goes: a path of the owner's.
        spec: rule, clipping, update rule, server's learning rate, weighting, whether factors or products are averaged,
            and how many updates must be sound.
        reference: the owner's own update, trained on one of the packages, for rule "fltrust".
        privacy_ledger: the owner's, which a round with noise for clients is charged to before its master has its name.
        noise_key: of a master that is computed again, to compare with it; nothing is charged then.
        force: replace an existing output.
        dry_run: check everything and write nothing.
        on_progress: told what is going on.

    Raises:
        LineageError: an update of another federation, round, package, rounding or layout; a second one of a client; a
            copy of another client's.
        GateError: values that are not finite, nothing but zeros, a norm above the package's limit, or too few updates.
        ArtifactError: a damaged file.
        UsageError: a spec whose parts do not go together, or not with the federation's method, dp-accounting missing
            where it is needed, or more updates than this system lets a process open.
        SecrecyError: `out` is on the Hub.
    """
    if not updates or not packages:
        raise UsageError("aggregate needs at least one update, and the package that it was trained on")
    allow_open_files(len(updates) + len(packages) + 1)
    target = parse_ref(out)
    ledger = None if privacy_ledger is None else Path(privacy_ledger)
    with store.destination(target, message="", secret=True, force=force) as place, ExitStack() as files:
        opened = files.enter_context(open_tensors(master, MasterHeader))
        spec, method = spec or AggregateSpec(), method_of(opened.header, source=str(opened.path))
        method.check(Asked(aggregate=spec))
        if spec.update_rule == 4 and opened.header.round >= (spec.n_rounds or 0):
            raise UsageError(f"--n-rounds {spec.n_rounds}: the master is already of round {opened.header.round}")
        sent = open_sent(files, opened, packages)
        check_options(spec, has_reference=reference is not None)
        masked = any(package.proxy.header.spec.mask is not None for package in sent)
        check_mask_options(spec, masked=masked)
        check_ranks(spec, opened, sent)
        check_client_privacy(spec, sent, ledger=ledger, noise_key=noise_key)
        threads = files.enter_context(one_thread())
        intake = take_in(
            files, updates, opened, sent, min_clients=spec.min_clients, threads=threads, on_progress=on_progress
        )
        own = None if reference is None else take_reference(files, reference, opened, sent, intake.received)
        noise = noise_of(spec, opened, sent, [one.update.sha256 for one in intake.received], noise_key)
        fold = Fold(opened, intake.received, spec, threads, own, rate_sum(sent), noise)
        privacy = planned_privacy(fold, ledger)
        products = product_norms(fold.received, threads=threads)
        if dry_run:
            return _result(fold, _contributions(fold, products), intake, privacy, path=str(target))
        header = _next_header(fold, sent)
        layout = fold.layout
        with write_tensors(place.path, header, layout, private=True, force=force) as writer:
            for number, (name, value) in enumerate(finished(fold.values(), method.finish), start=1):
                writer.write(name, value)
                on_progress("aggregating", number, len(layout))
            if noise is not None:
                privacy = charge_client_privacy(fold, ledger, writer.sha256())
        report = report_beside(place.path)
        sha256 = sha256_of_file(place.path)
        clients = _contributions(fold, products)
        write_report(report, _report(fold, clients, intake, privacy, header, sha256), private=True, force=True)
        return _result(fold, clients, intake, privacy, path=str(target), sha256=sha256, report=str(report))


def _next_header(fold: Fold, sent: Sequence[OpenPackage]) -> MasterHeader:
    before = fold.master.header.spec
    reference = {} if fold.reference is None else {"reference": (fold.reference.update.sha256,)}
    return MasterHeader(
        federation=federation_of(fold.master),
        round=fold.master.header.round + 1,
        method=fold.master.header.method,
        parents={
            "master": (fold.master.sha256,),
            "package": tuple(sorted({package.folder.sha256 for package in sent})),
            "update": tuple(update.sha256 for update in fold.updates),
            **reference,
        },
        spec=MasterSpec(
            model=before.model,
            seed=before.seed,
            quantize=sent[0].proxy.header.spec.quantize,
            aggregate=fold.spec,
            optimizer_steps=steps_after(before, fold.spec),
            withheld=fold.withheld,
            control_variates=fold.control is not None,
            base_weights=before.base_weights,
            next_clip_norm=None if fold.noise is None else fold.noise.next_clip_norm(fold.norms),
            method_options=before.method_options,
            layer_scores=_layer_scores(fold, sent),
        ),
    )


def _layer_scores(fold: Fold, sent: Sequence[OpenPackage]) -> dict[str, FactorScores]:
    answers = Answers(
        plan=sent[0].proxy.header.spec.factors,
        scores=[update.header.spec.scores for update in fold.updates],
        aggregate=fold.spec,
    )
    return method_of(fold.master.header, source=str(fold.master.path)).next_scores(fold.master.header.spec, answers)


def _contributions(fold: Fold, products: Sequence[float]) -> tuple[ClientContribution, ...]:
    return tuple(
        ClientContribution(
            client=one.update.header.spec.client,
            update=one.update.sha256,
            n_examples=one.update.header.spec.metrics.n_examples,
            rank=one.rank,
            weight=six_digits(weight),
            update_norm=six_digits(one.norm),
            clip_factor=six_digits(factor),
            product_norm=six_digits(product),
            cosine=None if cosine is None else six_digits(cosine),
            loss_first=one.update.header.spec.metrics.loss_first,
            loss_last=one.update.header.spec.metrics.loss_last,
        )
        for one, weight, factor, product, cosine in zip(
            fold.received, fold.weights, fold.clip_factors, products, fold.cosines(), strict=True
        )
    )


def _report(
    fold: Fold,
    clients: tuple[ClientContribution, ...],
    intake: Intake,
    privacy: ClientPrivacy | None,
    header: MasterHeader,
    sha256: str,
) -> ReportHeader:
    return ReportHeader(
        federation=header.federation,
        round=header.round,
        method=header.method,
        parents={"master": (sha256,)},
        spec=AggregateReport(
            aggregate=fold.spec,
            n_clients=len(fold.received),
            n_tensors=len(fold.shapes),
            n_parameters=n_parameters(fold.shapes),
            mean_norm=six_digits(math.sqrt(fold.mean_squares)),
            step_norm=six_digits(math.sqrt(fold.step_squares)),
            median_change=fold.magnitudes.median(),
            withheld_norm=_withheld_norm(fold),
            client_privacy=privacy,
            clients=clients,
            rejected=tuple(_without_path(one) for one in intake.rejected),
        ),
    )


def _withheld_norm(fold: Fold) -> float | None:
    return six_digits(math.sqrt(fold.withheld_squares)) if fold.withheld_squares else None


def _without_path(rejection: Rejection) -> RejectedUpdate:
    return RejectedUpdate(
        client=rejection.client, update=rejection.update, code=rejection.code, reason=rejection.reason
    )


def _result(
    fold: Fold,
    clients: tuple[ClientContribution, ...],
    intake: Intake,
    privacy: ClientPrivacy | None,
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
        withheld_norm=_withheld_norm(fold),
        client_privacy=privacy,
        n_clients=len(fold.received),
        n_examples=sum(update.header.spec.metrics.n_examples for update in fold.updates),
        clients=clients,
        rejected=intake.rejected,
    )
