"""`evaluate`: several models on the same held-out data, side by side."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.errors import UsageError
from fedlpp_cli.evaluation.harness import Harness
from fedlpp_cli.evaluation.score import check_can_generate
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.reports import EvaluateReport, EvaluateRow, Gap, ProxyRecovery, Spread
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec, TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.comparing import compared, recovered, spreads
from fedlpp_cli.steps.contenders import Line
from fedlpp_cli.steps.given_artifacts import GivenArtifacts
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.steps.scoring import Scoring, with_harness
from fedlpp_cli.steps.trained_contenders import alone, check_trainable, fine_tuned
from fedlpp_cli.steps.training_data import TrainingData
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.data import load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task


class EvaluateResult(Record, frozen=True, kw_only=True):
    """What `evaluate` found; most of it as in `EvaluateReport`.

    `gap`: how far central is ahead of its proxy in the `headline` score, accuracy or the loss with its sign turned; the
    first of `gaps` of that name, of the newest round. `per_class`: whether scores of each class were asked for.
    """

    path: str | None
    rows: tuple[EvaluateRow, ...]
    n_examples: int
    n_cut: int
    n_overlap: int | None
    data: str
    headline: Literal["accuracy", "loss"]
    gap: float | None
    gaps: tuple[Gap, ...]
    recovery: ProxyRecovery | None
    spreads: tuple[Spread, ...]
    per_class: bool


def evaluate(  # noqa: PLR0913  # a step has as many settings as its command has options
    artifacts: Sequence[RefLike],
    *,
    data: RefLike,
    base: RefLike | None = None,
    base_artifact: RefLike | None = None,
    spec: EvaluateSpec | None = None,
    quantize: QuantSpec | None = None,
    base_quantize: BaseQuantSpec | None = None,
    mask: MaskSpec | None = None,
    clients: Sequence[str] = (),
    every: int = 1,
    alone_on: Mapping[str, RefLike] | None = None,
    fine_tune_on: Mapping[str, RefLike] | None = None,
    train_data: Sequence[RefLike] = (),
    train: TrainSpec | None = None,
    harness: Sequence[str] = (),
    harness_tasks: Path | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    per_class: bool = False,
    out: RefLike | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> EvaluateResult:
    """Score base, proxy and central of a master, and whatever else is given, with one decoding on one set of rows.

    Args:
        artifacts: masters, packages, proxies, PEFT folders, run folders; "name=reference" gives rows a name, and of
            several with one name the mean and the standard deviation are told too.
        data: held-out rows.
        base: where the base lies; without it the Hub address in the artifact.
        base_artifact: the quantized private base.
        spec: batch size, decoding, limit.
        quantize: how a master's proxy is rounded; as in its last round where nothing is given.
        base_quantize: how a private base is rounded where no `base_artifact` is given.
        mask: what clients do not get of a master's proxy; as in a proxy beside it, or by its method, where nothing is
            given.
        clients: names; where each gets another proxy, that of the first is scored, without names one without masks.
        every: of a run folder every so many rounds, and the last.
        alone_on: client to training data: what it gets alone, from the base on.
        fine_tune_on: client to training data: what it makes of the newest proxy.
        train_data: more data that was trained on; rows that are among `data` too are counted.
        train: the recipe for those; as in the newest package among `artifacts` where nothing is given.
        harness: tasks of lm-evaluation-harness to score, too.
        harness_tasks: a folder with YAML files of more such tasks.
        columns: field name to column name, where the data calls them otherwise.
        split: of a held-out data set that has several.
        device: "auto", "cpu" or "cuda".
        per_class: whether results shall be shown class by class.
        out: where a report goes; None for none.
        force: replace an existing report.
        on_progress: told what is going on.

    Raises:
        UsageError: nothing to score, a base that is not named, or a training whose recipe or start is not known.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        GateError: a model whose loss is no number, or a training that went wrong.
    """
    if not artifacts:
        raise UsageError("evaluate needs at least one artifact")
    spec, columns = spec or EvaluateSpec(), columns or {}
    with ExitStack() as files:
        given = GivenArtifacts(files, every, rounds_anew=quantize is not None)
        opened = given.open(artifacts)
        line = Line(files, base, base_artifact or given.private_base, quantize, base_quantize, mask, clients)
        contenders = line.up(opened)
        wanted = {"--alone": alone_on or {}, "--fine-tuned": fine_tune_on or {}}
        trainings = {flag: check_trainable(line, train or given.recipe, flag=flag) for flag in wanted if wanted[flag]}
        task = task_for(contenders[0].task, open_tokenizer(contenders[0].base), columns)
        if per_class and not task.spec.labels:
            raise UsageError("--per-class: a language model has no classes")
        tasks = _harness(harness, harness_tasks, task, spec)
        rows = load_data(parse_ref(data), task, columns=columns, split=split, limit=spec.limit, on_progress=on_progress)
        if spec.generate:
            check_can_generate(task, rows)
        shards = TrainingData(task, columns, on_progress)
        if "--alone" in trainings:
            contenders += alone(*trainings["--alone"], shards.of(wanted["--alone"]))
        if "--fine-tuned" in trainings:
            contenders += fine_tuned(*trainings["--fine-tuned"], shards.of(wanted["--fine-tuned"]), contenders)
        for ref in train_data:
            shards.read(ref)
        scored, of_tasks = Scoring(task, rows, spec, choose_device(device), tasks, on_progress).all(contenders)
        on_progress("drawing examples again", 0, 0)
        compared_rows, gaps = compared(contenders, scored, task.spec.labels)
        compared_rows = with_harness(compared_rows, of_tasks)
        newest = None if line.subject is None else line.subject.file.sha256
        result = EvaluateResult(
            path=None,
            rows=compared_rows,
            n_examples=len(rows.rows),
            n_cut=rows.n_cut,
            n_overlap=shards.n_overlap(rows.examples),
            data=rows.sha256,
            headline=scored[0].headline,
            gap=next((gap.value for gap in gaps if gap.name == "recv" and gap.master == newest), None),
            gaps=gaps,
            recovery=recovered(contenders, scored, newest),
            spreads=spreads(contenders, compared_rows),
            per_class=per_class,
        )
        if out is None:
            return result
        with store.destination(parse_ref(out), message="Evaluation report", force=force) as place:
            write_report(place.path, _report(line, task, spec, result), force=force)
        return replace(result, path=str(place.written))


def _harness(names: Sequence[str], folder: Path | None, task: Task, spec: EvaluateSpec) -> Harness | None:
    if not names:
        if folder is not None:
            raise UsageError("--harness-tasks: --harness says which of them")
        return None
    if not isinstance(task, CausalLM):
        raise UsageError("--harness: its tasks are for language models, not for a classifier")
    return Harness(
        names, folder=folder, tokenizer=task.tokenizer, batch_size=spec.batch_size, max_length=task.spec.max_length,
        limit=spec.limit,
    )  # fmt: skip


def _report(line: Line, task: Task, spec: EvaluateSpec, result: EvaluateResult) -> ReportHeader:
    decoding = {"num_beams": spec.num_beams, "max_new_tokens": spec.max_new_tokens} if spec.generate else {}
    return ReportHeader(
        federation=line.federation,
        round=line.round,
        method=line.method,
        parents={"scored": tuple(sorted({row.artifact for row in result.rows if row.artifact is not None}))},
        spec=EvaluateReport(
            task=task.spec,
            data=result.data,
            n_examples=result.n_examples,
            n_cut=result.n_cut,
            n_overlap=result.n_overlap,
            generation=decoding,
            headline=result.headline,
            rows=result.rows,
            gaps=result.gaps,
            recovery=result.recovery,
            spreads=result.spreads,
        ),
    )
