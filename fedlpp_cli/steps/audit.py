"""`audit`: the owner plays the attacker, with everything that was handed out, before the next package leaves."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.adapters.drawn import is_drawn
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.withheld import owners_values
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.errors import LeakageError, UsageError
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Scored, mean_scores
from fedlpp_cli.leakage.agreement import Answers
from fedlpp_cli.leakage.averaging import Values
from fedlpp_cli.leakage.verdict import NOT_JUDGED, exceeds, verdict, worst_row
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.audits import ATTACKS, AttackRow, AuditReport, AuditSpec
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec, TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.audit_attacks import Case, average, narrow_down, pool_of_one, round_again, take_proxy, values_of
from fedlpp_cli.steps.audit_history import History, HistoryReader
from fedlpp_cli.steps.audit_judge import Judge, Tried, short_interval, tolerance_of
from fedlpp_cli.steps.audit_replay import add_up
from fedlpp_cli.steps.audit_stage import Clock, Stage
from fedlpp_cli.steps.audit_training import Asked, distill, fine_tune_all, fine_tune_one, starts_of
from fedlpp_cli.steps.contenders import Contender, Line
from fedlpp_cli.steps.given_artifacts import GivenArtifacts
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Example, digest_of

_CONFIDENTIAL: Final = "an audit tells attackers which of them would succeed"


class AuditResult(Record, frozen=True, kw_only=True):
    """What `audit` found. `path`: of the report, None where none was asked for; `sha256`: of the master to protect."""

    path: str | None
    federation: str
    round: int
    sha256: str
    report: AuditReport


@dataclass(frozen=True, slots=True)
class _Models:
    """The base and the owner's model as `evaluate` lines them up, and the base as attackers have it."""

    base: Contender
    central: Contender
    seen: Contender


def audit(  # noqa: PLR0913  # a step has as many settings as its command has options
    artifacts: Sequence[RefLike],
    *,
    data: RefLike,
    base: RefLike | None = None,
    base_artifact: RefLike | None = None,
    shards: Mapping[str, RefLike] | None = None,
    seen: Mapping[str, Iterable[int]] | None = None,
    round_number: int | None = None,
    spec: AuditSpec | None = None,
    evaluate: EvaluateSpec | None = None,
    train: TrainSpec | None = None,
    quantize: QuantSpec | None = None,
    base_quantize: BaseQuantSpec | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    out: RefLike | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> AuditResult:
    """Try to come to a master's model from everything that was distributed up to its round, that round included.

    Args:
        artifacts: a run folder, or masters, packages, proxies and updates.
        data: held-out rows that attackers' models are scored on.
        base: where the base lies; without it the Hub address in the master.
        base_artifact: the quantized private base; without it that of the run or of a package.
        shards: client to rows that attackers may train on; the first is the lone client's.
        seen: client to the rounds it took part in, where there are no updates that say so.
        round_number: of the master to protect; None for the newest.
        spec: which attacks, which of them count, how long, and what is allowed.
        evaluate: batch size and how many rows.
        train: the attackers' recipe where no package states one.
        quantize: how a proxy that is not there yet is rounded; as in the round before where nothing is given.
        base_quantize: the same for a private base.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu" or "cuda".
        out: where a report goes, of mode 0600; None for none.
        force: replace an existing report.
        on_progress: told what is going on.

    Raises:
        UsageError: no master, a base that is not named, or a limit for attacks none of which counts.
        InputError: a round of which nothing is there.
        LineageError: artifacts of several federations, or that do not follow from one another.
        ModelError, DataError: a base that is not the agreed one, malformed rows.
        LeakageError: an attack that counts recovers more than `spec.max_rho`, or none was tried; it has the result.
    """
    spec, evaluate = spec or AuditSpec(), evaluate or EvaluateSpec()
    if spec.max_rho is not None and not set(spec.attacks) & set(spec.counted):
        raise UsageError("--max-rho: none of the attacks that are chosen counts", hint="--count says which do")
    with ExitStack() as files:
        place = None if out is None else files.enter_context(_destination(out, force=force))
        reader = HistoryReader(files, base, base_artifact, quantize, base_quantize)
        history = reader.read(artifacts, round_number=round_number, seen=seen)
        models = _line_up(history, Line(files, base, history.base_copy, quantize, base_quantize))
        task = task_for(models.base.task, open_tokenizer(models.base.base), columns or {})

        def read(ref: RefLike, limit: int | None = None) -> Data:
            return load_data(
                parse_ref(ref), task, columns=columns or {}, split=split, limit=limit, on_progress=on_progress
            )

        rows = read(data, evaluate.limit)
        texts = {client: read(ref).examples for client, ref in (shards or {}).items()}
        lora = history.central.header.spec.model.lora
        stage = Stage(
            task, lora, rows.examples, evaluate.batch_size, choose_device(device), Clock(spec.budget), on_progress
        )
        case = Case(
            history=history,
            snapshots=[values_of(sent, lora.rank) for _, sent in sorted(history.sent.items())],
            shards=texts,
            recipe=train or _recipe(history),
            start=models.base.values(),
            spec=spec,
        )
        report = _report(case, models, stage, rows)
        if place is not None:
            write_report(place.path, _header(history, report), private=True, force=force)
        sha256 = history.central.sha256
    result = AuditResult(
        path=None if place is None else str(place.written),
        federation=history.federation,
        round=history.central.header.round,
        sha256=sha256,
        report=report,
    )
    _check(result, spec.max_rho)
    return result


def _line_up(history: History, line: Line) -> _Models:
    rows = line.up(GivenArtifacts(line.files).open([history.central.path]))
    of_role = {row.role: row for row in rows}
    return _Models(of_role["base"], of_role["central"], of_role.get("proxy", of_role["base"]))


def _recipe(history: History) -> TrainSpec:
    """That of the newest package."""
    stated = [sent.recipe for _, sent in sorted(history.sent.items()) if sent.recipe is not None]
    return stated[-1] if stated else TrainSpec(steps=1)


def _report(case: Case, models: _Models, stage: Stage, rows: Data) -> AuditReport:
    judge, asked = _judge(case, models, stage)
    found = _attack(case, judge, asked)
    central = recovery(judge.central, base=judge.base, central=judge.central)
    attacks = tuple(sorted(found.rows, key=lambda row: ATTACKS.index(row.attack)))
    return AuditReport(
        task=stage.task.spec,
        data=rows.sha256,
        n_examples=len(rows.examples),
        n_rounds=len(case.snapshots),
        headline="loss" if judge.central.headline == "loss" else "accuracy",
        base=_scores(judge.base),
        proxy=_scores(found.proxy.scored),
        central=_scores(judge.central),
        gain=six_digits(central.gain),
        gain_interval=short_interval(central.gain_interval),
        bytes_down=sum(sent.n_bytes for sent in case.history.sent.values()),
        rows=attacks,
        worst=worst_row(attacks),
        max_rho=case.spec.max_rho,
        verdict=verdict(attacks, central, max_rho=case.spec.max_rho, n_examples=len(rows.examples)),
        n_compared=len(judge.answers),
        warnings=tuple(_overlaps(rows.examples, case.shards)),
    )


def _judge(case: Case, models: _Models, stage: Stage) -> tuple[Judge, Asked | None]:
    """The owner's side: scores of central and base, what central says to the held-out rows and to an attacker's."""
    master, answers = case.history.central, Answers(stage.rows)
    names = components_of(master)
    factors = {name: master.read(name) for name in names}
    owner = owners_values(master, names) if master.header.spec.withheld else factors
    central = stage.score(models.central.base, owner, "central", look=answers.look)
    asked = _ask(case, stage, models, owner) if "distill" in case.spec.attacks else None
    base = stage.score(models.base.base, case.start, "base")
    tolerance = tolerance_of(case.history.quantize)
    public = frozenset(name for name in names if is_drawn(case.history.newest.header.spec, name))
    return Judge(stage, models.seen.base, base, central, answers, factors, owner, tolerance, public), asked


def _ask(case: Case, stage: Stage, models: _Models, owner: Values) -> Asked | None:
    client, examples = next(iter(case.shards.items()), ("", ()))
    examples = examples[: case.spec.n_queries]
    if not examples:
        return None
    answers = Answers(examples)
    adapted = stage.at(models.central.base, owner)
    stage.score_on(examples, adapted, "what is asked", look=answers.look)
    return Asked(client, examples[: len(answers)], answers)


@dataclass(frozen=True, slots=True)
class _Found:
    proxy: Tried
    rows: list[AttackRow]


def _attack(case: Case, judge: Judge, asked: Asked | None) -> _Found:
    """Everything that was chosen, the cheap ones first."""
    chosen = set(case.spec.attacks)
    averages: list[tuple[str, int, Tried]] = []
    proxy, row = take_proxy(case, judge)
    rows = [row] if "proxy" in chosen else []
    if "intersect" in chosen:
        rows += narrow_down(case, judge)
    if "rerounding" in chosen:
        rows += round_again(case, judge)
    if "replay" in chosen:
        rows += add_up(case, judge)
    if "pool" in chosen:
        rows += pool_of_one(case, judge)
    if "average" in chosen:
        rows += average(case, judge, averages)
    starts = starts_of(case, averages)
    if "fine-tune" in chosen:
        rows += fine_tune_one(case, judge, starts)
    if "pool" in chosen:
        rows += fine_tune_all(case, judge, starts[0])
    if "distill" in chosen:
        rows += distill(case, judge, [starts[0], starts[-1]], asked)
    return _Found(proxy, rows)


def _overlaps(rows: Sequence[Example], shards: Mapping[str, Sequence[Example]]) -> list[str]:
    """One line for each client whose rows are among the held-out ones."""
    held_out = [digest_of([example]) for example in rows]
    said = []
    for client, examples in shards.items():
        own = {digest_of([example]) for example in examples}
        n_equal = sum(digest in own for digest in held_out)
        if n_equal:
            said.append(
                f"{n_equal} of the {len(rows)} held-out rows are {client}'s too: models trained on them score too high"
            )
    return said


def _scores(scored: Scored) -> dict[str, float]:
    return {name: six_digits(value) for name, value in mean_scores(scored).items()}


def _destination(out: RefLike, *, force: bool) -> AbstractContextManager[store.Destination]:
    return store.destination(parse_ref(out), message="Audit report", force=force, confidential=_CONFIDENTIAL)


def _header(history: History, report: AuditReport) -> ReportHeader:
    return ReportHeader(
        federation=history.federation,
        round=history.central.header.round,
        parents={
            "master": (history.central.sha256,),
            "proxy": tuple(sorted(sent.proxy.sha256 for sent in history.sent.values())),
        },
        spec=report,
    )


def _check(result: AuditResult, max_rho: float | None) -> None:
    report = result.report
    if max_rho is not None and report.verdict == NOT_JUDGED:
        raise LeakageError(
            "--max-rho: no attack that counts was tried, so that nobody knows what is given away",
            result=result,
            hint="a larger --budget, or more of --attacks; the report says why each was not tried",
        )
    row = None if report.worst is None else report.rows[report.worst]
    if row is not None and exceeds(row, max_rho):
        raise LeakageError(
            f"{row.attack}, {row.variant}: recovery ratio {row.rho:.3g}, --max-rho allows {max_rho:g}",
            result=result,
            hint="fewer bits, a private base, fewer packages; docs/audit.md says what helps",
        )
