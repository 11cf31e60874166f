"""`distill publish`: a teacher answers synthetic inputs; answers and inputs are all that travels."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.key_files import SigningKey, fingerprints_of
from fedlpp_cli.artifact.signatures import signatures_beside
from fedlpp_cli.artifact.whole import check_absent
from fedlpp_cli.errors import UsageError
from fedlpp_cli.evaluation.answers import answer
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import TranscriptHeader
from fedlpp_cli.records.record import Digest, Record, read_record, to_plain
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.records.transcripts import DEFAULT_TOP_K, InputSource, InputsSpec, PublishSpec, Targets, TranscriptSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.distill_models import Teacher, find_teacher
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.steps.synthetic_inputs import random_texts, read_templates, sampled_texts
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.soft_labels import SoftLabels
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.tasks.templates import Template, fill_templates
from fedlpp_cli.tasks.transcripts import Inputs, write_transcript
from fedlpp_cli.tasks.vocabulary import vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PublishResult(Record, frozen=True, kw_only=True):
    """What `distill publish` made.

    `n_cut`: inputs longer than the task; `signed_with`: fingerprints of the keys that sign it; `warnings`: to read
    before it is sent.
    """

    path: str
    sha256: str
    teacher: str
    task: TaskSpec
    inputs: InputsSpec
    n_inputs: int
    n_answers: int
    n_cut: int
    targets: Targets
    top_k: int
    n_outcomes: int
    n_bytes: int
    signed_with: tuple[Digest, ...]
    warnings: tuple[str, ...]


def distill_publish(
    model: RefLike,
    *,
    out: RefLike,
    teacher: str,
    base: RefLike | None = None,
    task: Mapping[str, object] | None = None,
    templates: Path | None = None,
    sample: RefLike | None = None,
    spec: PublishSpec | None = None,
    sign: Sequence[SigningKey] = (),
    device: str = "auto",
    force: bool = False,
    on_progress: Progress = silent,
) -> PublishResult:
    """Write a transcript: synthetic inputs, and what the model says to each.

    Args:
        model: the teacher: a master, a PEFT folder (with `base`), or a plain transformers folder.
        out: where the transcript goes.
        teacher: the name by which students know it.
        base: where the base of a master or of a PEFT adapter lies.
        task: fields of `TaskSpec`, of a teacher that is no master.
        templates: a file of templates (`tasks/templates.py`) that inputs are made from.
        sample: a plain language model that writes the inputs; without both, inputs are random tokens.
        spec: how many inputs, from which seed, and how much of each answer is told.
        sign: the teacher's keys, whose signatures lie beside the transcript (`artifact/key_files.read_signing_key`).
        device: "auto", "cpu" or "cuda".
        force: replace an existing output.
        on_progress: told what is going on.

    Raises:
        UsageError: settings that do not go together, `top_k` above the number of outcomes, or one key twice.
        InputError, ModelError, ArtifactError, LineageError: a teacher that cannot be opened.
        DataError: templates that cannot be read.
        GateError: answers that are not finite.
    """
    spec, signed_with = spec or PublishSpec(), fingerprints_of(sign)
    if templates is not None and sample is not None:
        raise UsageError("--templates and --sample are two ways to make inputs; choose one")
    patterns = None if templates is None else read_templates(templates)
    with store.destination(parse_ref(out), message=f"Transcript of {teacher}", force=force) as place:
        check_absent(signatures_beside(place.path), force=force)
        on_progress("opening teacher", 0, 0)
        found, device = find_teacher(model, base=base, task=task or {}), choose_device(device)
        tokenizer = open_tokenizer(found.folder)
        digest = None if templates is None else sha256_of_file(templates)
        source: InputSource = "templates" if digest else "random" if sample is None else "sampled"
        inputs_spec = InputsSpec(source=source, seed=spec.seed, templates=digest)
        told = _told(found, tokenizer, teacher, spec, inputs_spec)
        texts = _texts(found, tokenizer, patterns, sample, spec, device, on_progress)
        examples, answers = _answer(found, tokenizer, texts, told, spec.batch_size, device, on_progress)
        inputs: Inputs = tuple(texts) if told.vocabulary is None else tuple(one.input_ids for one in examples)
        sha256 = write_transcript(place.path, _header(found, told), inputs, answers, sign=sign, force=force)
        n_bytes = place.path.stat().st_size
    return PublishResult(
        path=str(place.written),
        sha256=sha256,
        teacher=teacher,
        task=found.task,
        inputs=inputs_spec,
        n_inputs=told.n_inputs,
        n_answers=len(answers),
        n_cut=sum(example.was_cut for example in examples),
        targets=told.targets,
        top_k=told.top_k,
        n_outcomes=told.n_outcomes,
        n_bytes=n_bytes,
        signed_with=signed_with,
        warnings=_warnings(patterns or ()),
    )


def _told(
    found: Teacher, tokenizer: "PreTrainedTokenizerBase", teacher: str, spec: PublishSpec, inputs: InputsSpec
) -> TranscriptSpec:
    """What the transcript will say of itself.

    Raises:
        UsageError: a field out of range.
    """
    is_classifier, wanted = found.task.kind == "seq-cls", spec.top_k
    vocabulary = None if is_classifier else vocabulary_of(tokenizer)
    n_outcomes = len(found.task.labels) if vocabulary is None else vocabulary.size
    things = "labels" if is_classifier else "tokens in the vocabulary"
    if spec.targets == "scores" and wanted not in (None, n_outcomes):
        raise UsageError("--top-k goes with log-probs: scores are told of all outcomes")
    if wanted is not None and wanted > n_outcomes:
        raise UsageError(f"--top-k {wanted}: there are {n_outcomes} {things}", hint=f"--top-k {n_outcomes} tells all")
    usual = n_outcomes if is_classifier or spec.targets == "scores" else min(DEFAULT_TOP_K, n_outcomes)
    fields = {
        "teacher": teacher,
        "task": to_plain(found.task),
        "vocabulary": None if vocabulary is None else vocabulary.digest,
        "n_outcomes": n_outcomes,
        "targets": spec.targets,
        "top_k": wanted or usual,
        "n_inputs": spec.n_inputs,
        "inputs": to_plain(inputs),
    }
    return read_record(fields, TranscriptSpec, source="the transcript", error=UsageError)


def _texts(
    found: Teacher,
    tokenizer: "PreTrainedTokenizerBase",
    patterns: Sequence[Template] | None,
    sample: RefLike | None,
    spec: PublishSpec,
    device: str,
    on_progress: Progress,
) -> list[str]:
    """The inputs, before anybody has cut them into tokens."""
    longest = found.task.max_length
    if patterns is not None:
        return fill_templates(patterns, spec.n_inputs, seed=spec.seed)
    if sample is None:
        return random_texts(tokenizer, spec.n_inputs, longest, seed=spec.seed)
    return sampled_texts(
        sample,
        spec.n_inputs,
        longest,
        seed=spec.seed,
        batch_size=spec.batch_size,
        device=device,
        on_batch=partial(on_progress, "sampling inputs"),
    )


def _answer(
    found: Teacher,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    told: TranscriptSpec,
    batch_size: int,
    device: str,
    on_progress: Progress,
) -> tuple[list[Example], SoftLabels]:
    """The inputs in the teacher's tokens, and what it says to them."""
    task = task_for(found.task, tokenizer, {})
    examples = [task.encode(Row(f"input {number}", {"text": text, "label": 0})) for number, text in enumerate(texts)]
    answers = answer(
        found.open(device),
        task,
        examples,
        n_outcomes=told.n_outcomes,
        top_k=told.top_k,
        targets=told.targets,
        batch_size=batch_size,
        on_batch=partial(on_progress, "answering"),
    )
    return examples, answers


def _header(found: Teacher, told: TranscriptSpec) -> TranscriptHeader:
    parents: dict[str, tuple[str, ...]] = {} if found.master is None else {"master": (found.master,)}
    return TranscriptHeader(federation=found.federation, round=found.round, parents=parents, spec=told)


def _warnings(patterns: Sequence[Template]) -> tuple[str, ...]:
    n_literal = sum(pattern.is_literal for pattern in patterns)
    return (f"{n_literal} of {len(patterns)} templates have no slot: they travel as they are",) if n_literal else ()
