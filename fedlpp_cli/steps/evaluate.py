"""`evaluate`: several models on the same held-out data, side by side."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.errors import UsageError
from fedlpp_cli.evaluation.score import check_can_generate, score
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.reports import EvaluateReport, EvaluateRow
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.contenders import Contender, Line
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task


class EvaluateResult(Record, frozen=True, kw_only=True):
    """What `evaluate` found. `gap` is how far central is ahead of its proxy: accuracy, or loss with the sign turned."""

    path: str | None
    rows: tuple[EvaluateRow, ...]
    n_examples: int
    n_cut: int
    data: str
    gap: float | None


def evaluate(
    artifacts: Sequence[RefLike],
    *,
    data: RefLike,
    base: RefLike | None = None,
    base_artifact: RefLike | None = None,
    spec: EvaluateSpec | None = None,
    quantize: QuantSpec | None = None,
    base_quantize: BaseQuantSpec | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    out: RefLike | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> EvaluateResult:
    """Score base, proxy and central of a master, and whatever else is given, with one decoding on one set of rows.

    Args:
        artifacts: masters, packages, proxies, PEFT folders; "name=reference" gives a row a name.
        data: held-out rows.
        base: where the base lies; without it the Hub address in the artifact.
        base_artifact: the quantized private base.
        spec: batch size, decoding, limit.
        quantize: how a master's proxy is rounded; as in its last round where nothing is given.
        base_quantize: how a private base is rounded where no `base_artifact` is given.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu" or "cuda".
        out: where a report goes; None for none.
        force: replace an existing report.
        on_progress: told what is going on.

    Raises:
        UsageError: nothing to score, or a base that is not named.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        GateError: a model whose loss is no number.
    """
    if not artifacts:
        raise UsageError("evaluate needs at least one artifact")
    spec = spec or EvaluateSpec()
    with ExitStack() as files:
        line = Line(files, base, base_artifact, quantize, base_quantize)
        contenders = line.up(artifacts)
        tokenizer = open_tokenizer(contenders[0].base)
        task = task_for(contenders[0].task, tokenizer, columns or {})
        rows = load_data(
            parse_ref(data), task, columns=columns or {}, split=split, limit=spec.limit, on_progress=on_progress
        )
        if spec.generate:
            check_can_generate(task, rows)
        scored = tuple(_score_all(contenders, task, rows, spec, choose_device(device), on_progress))
        path = None
        if out is not None:
            report = _report(line, task, rows, spec, scored)
            with store.destination(parse_ref(out), message="Evaluation report", force=force) as place:
                write_report(place.path, report, force=force)
            path = str(place.written)
        return EvaluateResult(
            path=path, rows=scored, n_examples=len(rows.rows), n_cut=rows.n_cut, data=rows.sha256, gap=_gap(scored)
        )


def _score_all(
    contenders: Sequence[Contender], task: Task, rows: Data, spec: EvaluateSpec, device: str, on_progress: Progress
) -> list[EvaluateRow]:
    """One row a contender, in order; a model is opened once for all that share it."""
    found: dict[int, EvaluateRow] = {}
    order = sorted(range(len(contenders)), key=lambda i: (str(contenders[i].base), str(contenders[i].lora), i))
    adapted: AdaptedModel | None = None
    on_it: Contender | None = None
    for index in order:
        contender = contenders[index]
        if adapted is None or on_it is None or (contender.base, contender.lora) != (on_it.base, on_it.lora):
            adapted = None  # let the last model go before the next one comes
            on_progress("opening model", 0, 0)
            adapted, on_it = _open(contender, device), contender
        adapted.load(contender.values())
        scores = score(adapted, task, rows, spec, partial(on_progress, f"scoring {contender.name}"))
        found[index] = EvaluateRow(
            model=contender.name,
            role=contender.role,
            round=contender.round,
            artifact=contender.sha256,
            detail=contender.detail,
            scores={name: six_digits(value) for name, value in scores.items()},
        )
    return [found[index] for index in range(len(contenders))]


def _open(contender: Contender, device: str) -> AdaptedModel:
    opened = open_model(contender.base, contender.task, device=device)
    return AdaptedModel(opened.model, contender.lora)


def _gap(rows: Sequence[EvaluateRow]) -> float | None:
    scores = {row.model: row.scores for row in reversed(rows)}  # of rows of one name the first counts
    if "proxy" not in scores or "central" not in scores:
        return None
    proxy, central = scores["proxy"], scores["central"]
    if "accuracy" in central:
        return six_digits(central["accuracy"] - proxy["accuracy"])
    return six_digits(proxy["loss"] - central["loss"])


def _report(line: Line, task: Task, rows: Data, spec: EvaluateSpec, scored: tuple[EvaluateRow, ...]) -> ReportHeader:
    decoding = {"num_beams": spec.num_beams, "max_new_tokens": spec.max_new_tokens} if spec.generate else {}
    return ReportHeader(
        federation=line.federation,
        round=line.round,
        method=line.method,
        parents={"scored": tuple(sorted({row.artifact for row in scored if row.artifact is not None}))},
        spec=EvaluateReport(
            task=task.spec,
            data=rows.sha256,
            n_examples=len(rows.rows),
            n_cut=rows.n_cut,
            generation=decoding,
            rows=scored,
        ),
    )
