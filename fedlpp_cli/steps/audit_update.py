"""`audit --update`: what an update tells about the rows that it was trained on, for its client, before it is sent."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

import torch

from fedlpp_cli.adapters.proxy_tensors import check_same_layout, proxy_layout, read_update
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of
from fedlpp_cli.errors import LeakageError, LineageError, UsageError
from fedlpp_cli.leakage.update_verdict import advice, verdict
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.audits import UpdateAuditReport
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.headers import ReportHeader, UpdateHeader
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.computing import choose_for, open_chosen, told
from fedlpp_cli.steps.inputs import RefLike, check_parent, open_tensors
from fedlpp_cli.steps.local_training import open_round
from fedlpp_cli.steps.packages import OpenPackage, open_package
from fedlpp_cli.steps.rebuilt_rows import DEFAULT_TRIALS, Rebuilding, rebuilt_rows_of
from fedlpp_cli.steps.update_leaks import (
    LEAST_ROWS,
    OpenAudit,
    canaries_of,
    classes_of,
    own_privacy,
    rows_of,
    words_of,
)
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for

DEFAULT_CANARIES: Final = 64
# With fewer the coins may all fall on one side.
_LEAST_CANARIES: Final = 16


class UpdateAuditResult(Record, frozen=True, kw_only=True):
    """What `audit --update` found. `path`: where the report lies; None where none was asked for."""

    path: str | None
    report: UpdateAuditReport


def audit_update(  # noqa: PLR0913  # a step has as many settings as its command has options
    update: RefLike,
    *,
    package: RefLike,
    data: RefLike,
    control_data: RefLike | None = None,
    base: RefLike | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    privacy: PrivacySpec | None = None,
    n_canaries: int = DEFAULT_CANARIES,
    n_trials: int = DEFAULT_TRIALS,
    budget: float | None = None,
    batch_size: int = 16,
    max_auc: float | None = None,
    out: RefLike | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> UpdateAuditResult:
    """Attack an update as its owner could, and say what comes out; nothing is sent, and no ledger is charged.

    Args:
        update: what `client-train` made.
        package: what it was trained on.
        data: the rows that it was trained on.
        control_data: rows of the same kind that it was not trained on. Without them membership is tested on a training
            like it, of half of the rows.
        base: where a public base lies; without it the package's Hub address is used.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu" or "cuda".
        privacy: try trainings with this noise, too; None for the update's own, if it has any.
        n_canaries: rows of random words to try, of which half are trained on; 0 for none.
        n_trials: rows that a search for the update's own may try, where these are few; 0 for no search.
        budget: minutes after which such searches end; None for no limit.
        batch_size: of examples that are scored.
        max_auc: how well rows may be told from others.
        out: where a report goes, a path of the client's; None for none.
        force: replace an existing report.
        on_progress: told what is going on.

    Raises:
        ArtifactError, DigestError, LineageError: a package or an update that is not sound, or does not belong here.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        UsageError: too few rows or canaries; dp-accounting is missing.
        GateError: a training that went wrong.
        LeakageError: rows can be told better than `max_auc` allows; the report is written.
        SecrecyError: a report for the Hub.
    """
    if n_canaries and n_canaries < _LEAST_CANARIES:
        raise UsageError(f"--canaries {n_canaries}: {_LEAST_CANARIES} at least are needed, or 0 for none")
    with ExitStack() as files:
        place = None
        if out is not None:
            place = files.enter_context(store.destination(parse_ref(out), message="", secret=True, force=force))
        opened = open_package(package)
        files.callback(opened.proxy.close)
        sent = files.enter_context(open_tensors(update, UpdateHeader))
        audit = _open(
            opened, sent, data, control_data, base=base, columns=columns or {}, split=split, device=device,
            batch_size=batch_size, on_progress=on_progress,
        )  # fmt: skip
        if max_auc is not None and audit.others is None and len(audit.rows.examples) < LEAST_ROWS:
            raise UsageError("--max-auc: these rows are too few to be tested", hint="--control-data")
        noise = privacy or own_privacy(sent.header)
        report = _report(audit, noise, n_canaries, Rebuilding(n_trials, budget), max_auc)
        if place is not None:
            parents: dict[str, tuple[str, ...]] = {"package": (opened.folder.sha256,), "update": (sent.sha256,)}
            header = ReportHeader(
                federation=sent.header.federation, round=sent.header.round, parents=parents, spec=report
            )
            write_report(place.path, header, private=True, force=force)
    result = UpdateAuditResult(path=None if place is None else str(place.written), report=report)
    auc = report.membership.auc
    if max_auc is not None and auc is not None and auc > max_auc:
        hint = report.advice[0] if report.advice else None
        raise LeakageError(
            f"rows are told from others with an AUC of {auc:.4g}, --max-auc is {max_auc:g}", result=result, hint=hint
        )
    return result


def _open(
    opened: OpenPackage,
    sent: TensorFile[UpdateHeader],
    data: RefLike,
    control_data: RefLike | None,
    *,
    base: RefLike | None,
    columns: Mapping[str, str],
    split: str | None,
    device: str,
    batch_size: int,
    on_progress: Progress,
) -> OpenAudit:
    """Update, package, rows and model, known to belong together."""
    shapes, trained = opened.proxy.header.spec.shapes, update_shapes(opened.proxy.header.spec)
    check_parent(sent.header, "package", opened.folder.sha256, source=str(sent.path), parent=opened.name)
    check_same_layout(layout_of(sent.tensors), proxy_layout(trained, sent.header.spec.quantize), source=str(sent.path))
    change = {
        name: read_update(sent, name, tuple(shape)) if name in trained else torch.zeros(tuple(shape))
        for name, shape in shapes.items()
    }
    on_progress("checking base model", 0, 0)
    folder = opened.base_folder(base)
    tokenizer = open_tokenizer(folder)
    task = task_for(opened.proxy.header.spec.model.task, tokenizer, columns)

    def read(ref: RefLike) -> Data:
        return load_data(parse_ref(ref), task, columns=columns, split=split, on_progress=on_progress)

    rows, others = read(data), None if control_data is None else read(control_data)
    n_stated = sent.header.spec.metrics.n_examples
    if n_stated != len(rows.examples):
        raise LineageError(
            f"{sent.path}: was trained on {n_stated} examples, --data has {len(rows.examples)}",
            hint="--data with the rows that it was trained on",
        )
    longest = max(len(example.input_ids) for example in rows.examples)
    choice = choose_for(opened, folder, ComputeSpec(), device=device, max_length=longest)
    on_progress(told(choice), 0, 0)
    adapted, _ = open_chosen(opened, folder, choice)
    local = open_round(opened, task, adapted)
    values = {name: local.start[name] + value for name, value in change.items()}
    return OpenAudit(
        opened, sent.header, local, tokenizer, columns, rows, others, values, batch_size, on_progress
    )  # fmt: skip


def _report(
    audit: OpenAudit, privacy: PrivacySpec | None, n_canaries: int, rebuilding: Rebuilding, max_auc: float | None
) -> UpdateAuditReport:
    tokens, labels, found = words_of(audit), classes_of(audit), rows_of(audit)
    rebuilt = rebuilt_rows_of(audit, privacy, rebuilding)
    canaries = canaries_of(audit, privacy, n_canaries) if n_canaries else ()
    recipe, n_rows = audit.package.folder.header.spec.train, len(audit.rows.examples)
    n_steps = audit.header.spec.metrics.n_steps
    lines = advice(
        tokens,
        found,
        canaries,
        rebuilt,
        n_examples=n_rows,
        n_passes=n_steps * recipe.batch_size * recipe.gradient_accumulation / n_rows,
        is_private=audit.header.spec.privacy is not None,
    )
    return UpdateAuditReport(
        task=audit.local.task.spec,
        data=audit.rows.sha256,
        control_data=None if audit.others is None else audit.others.sha256,
        n_examples=n_rows,
        n_steps=n_steps,
        privacy=audit.header.spec.privacy,
        tokens=tokens,
        labels=labels,
        rebuilt=rebuilt,
        membership=found,
        canaries=canaries,
        max_auc=max_auc,
        verdict=verdict(tokens, labels, found, canaries, rebuilt),
        advice=lines,
    )
