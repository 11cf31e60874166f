"""`distill train`: a student learns from transcripts, and becomes the first master of a federation of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.artifact import store
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.keys import PublicKey, Signer, signers_of
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.policy import ClientPolicy
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import DEFAULT_STEPS, LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.records.transcripts import DistillationLoss, DistillSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.client_policy import allowed_signers
from fedlpp_cli.steps.distill_models import Student, find_student
from fedlpp_cli.steps.init import MasterResult, write_first_master
from fedlpp_cli.steps.inputs import RefLike, choose_device
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.soft_labels import SoftLabels
from fedlpp_cli.tasks.task import Task
from fedlpp_cli.tasks.transcripts import Transcript, open_transcript
from fedlpp_cli.tasks.vocabulary import vocabulary_of
from fedlpp_cli.training.distilling import DistillGradient, lessons_of
from fedlpp_cli.training.gates import check_trained, loss_warning
from fedlpp_cli.training.limits import check_fits
from fedlpp_cli.training.loop import TrainedRun, guessing_loss, train


class Taught(Record, frozen=True, kw_only=True):
    """A transcript that was learned from. `signers`: whose good signatures it has."""

    teacher: str
    sha256: str
    n_inputs: int
    n_answers: int
    signers: tuple[Signer, ...]


class DistillResult(Record, frozen=True, kw_only=True):
    """What `distill train` made: a master, the first of `federation`.

    Losses are means over the answers of the first and the last step, times the square of the temperature with "kl".
    `n_cut`: inputs longer than the student's task.
    """

    path: str
    sha256: str
    federation: str
    model_type: str
    n_parameters: int
    transcripts: tuple[Taught, ...]
    n_cut: int
    train: TrainSpec
    loss: DistillationLoss
    temperature: float
    n_steps: int
    loss_first: float
    loss_last: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Learned:
    """A student after its training: the adapter's tensors by component, how it went, and how many inputs were cut."""

    values: dict[str, Tensor]
    run: TrainedRun
    n_cut: int
    warnings: tuple[str, ...]


def distill_train(  # noqa: PLR0913  # a step has as many settings as its command has options
    student: RefLike,
    transcripts: Sequence[RefLike],
    *,
    out: RefLike,
    base: RefLike | None = None,
    train_spec: TrainSpec | None = None,
    distill: DistillSpec | None = None,
    lora: LoraSpec | None = None,
    max_length: int | None = None,
    private_base: bool = False,
    policy: ClientPolicy | None = None,
    signers: Sequence[PublicKey] = (),
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    on_progress: Progress = silent,
) -> DistillResult:
    """Train a student until it answers as its teachers do. Their order does not matter.

    Args:
        student: a master, which goes on from where it is, or a base model, which gets a new adapter.
        transcripts: what teachers answered; all of one task, and in the student's labels or vocabulary.
        out: where the master goes: a path of the student's.
        base: where the base of a student that is a master lies.
        train_spec: the recipe.
        distill: loss and temperature.
        lora: a new adapter; None for the defaults.
        max_length: of a new student's task; that of the transcripts where nothing is said.
        private_base: a new student's clients shall only ever see a quantized copy of its base.
        policy: the student's; of it, whose transcripts are taken.
        signers: one of these keys must have signed each transcript; of those in the policy, where it names some.
        seed: of a new adapter's values and of the training.
        device: "auto", "cpu" or "cuda".
        force: replace an existing output.
        on_progress: told what is going on.

    Raises:
        UsageError: settings that do not go together.
        ArtifactError, SignatureError, DigestError: a transcript that is not sound, or not what was signed.
        SignerError: a transcript that none of the signers has signed.
        LineageError: a transcript of another task, other labels, or another vocabulary.
        GateError: a training that went wrong.
        SecrecyError: `out` is on the Hub.
    """
    recipe, distill = train_spec or TrainSpec(steps=DEFAULT_STEPS), distill or DistillSpec()
    if recipe.control_variates:
        raise UsageError("control_variates: SCAFFOLD is for clients of one owner; distillation has none")
    trusted = allowed_signers(policy or ClientPolicy(), signers)
    with store.destination(parse_ref(out), message="", secret=True, force=force) as place:
        given = [open_transcript(store.fetch(parse_ref(one)), signers=trusted) for one in transcripts]
        _check_distinct(given)
        loss = _choose_loss(given, distill)
        on_progress("opening student", 0, 0)
        found = find_student(
            student, base=base, task=_task(given, max_length), lora=lora, private_base=private_base, seed=seed
        )
        if found.master is not None and max_length is not None:
            raise UsageError("--max-length: a master says its task itself")
        ordered = sorted(given, key=lambda one: one.sha256)
        learned = _learn(found, ordered, recipe, loss, distill.temperature, seed, choose_device(device), on_progress)
        parents = {"transcript": tuple(one.sha256 for one in ordered)}
        made = write_first_master(
            place,
            found.model,
            learned.values,
            method=METHOD,
            options=MethodSpec(),
            seed=found.seed,
            base_weights=found.base_weights,
            parents=parents if found.master is None else {**parents, "student": (found.master,)},
            force=force,
        )
    return _result(made, tuple(_taught(one, trusted) for one in given), learned, recipe, loss, distill.temperature)


def _learn(
    student: Student,
    transcripts: Sequence[Transcript],
    recipe: TrainSpec,
    loss: DistillationLoss,
    temperature: float,
    seed: int,
    device: str,
    on_progress: Progress,
) -> _Learned:
    """Train the student on transcripts, in their order.

    Raises:
        LineageError: a transcript that does not fit.
        ModelError, GateError: as the opening and the training of a client's model.
    """
    task = task_for(student.model.task, open_tokenizer(student.folder), {})
    n_outcomes, answers = _answers(transcripts, task)
    lessons = [lesson for number, one in enumerate(transcripts) for lesson in lessons_of(one, number, task)]
    adapted = student.open(device, recipe.compute)
    check_fits(adapted.model, task.spec.max_length, lessons)
    run = train(
        adapted,
        task,
        lessons,
        recipe,
        labels=("distill", seed, *(one.sha256 for one in transcripts)),
        gradient=DistillGradient(
            adapted, task, answers, recipe, n_outcomes=n_outcomes, loss=loss, temperature=temperature
        ),
        on_step=lambda done: on_progress(f"learning, loss {done.loss:.4f}", done.step, done.total),
    )
    values = adapted.values()
    check_trained({name: value - student.values[name] for name, value in values.items()})
    warning = loss_warning(run.loss_first, run.loss_last, guessing_loss(adapted, task))
    n_cut = sum(lesson.was_cut for lesson in lessons)
    return _Learned(values, run, n_cut, () if warning is None else (warning,))


def _result(
    made: MasterResult,
    transcripts: tuple[Taught, ...],
    learned: _Learned,
    recipe: TrainSpec,
    loss: DistillationLoss,
    temperature: float,
) -> DistillResult:
    return DistillResult(
        path=made.path,
        sha256=made.sha256,
        federation=made.federation,
        model_type=made.model_type,
        n_parameters=made.n_parameters,
        transcripts=transcripts,
        n_cut=learned.n_cut,
        train=recipe,
        loss=loss,
        temperature=temperature,
        n_steps=learned.run.n_steps,
        loss_first=six_digits(learned.run.loss_first),
        loss_last=six_digits(learned.run.loss_last),
        warnings=learned.warnings,
    )


def _check_distinct(transcripts: Sequence[Transcript]) -> None:
    """Refuse no transcript at all, and one that is given twice.

    Raises:
        UsageError: either.
    """
    if not transcripts:
        raise UsageError("distill train needs at least one transcript", hint="--transcript FILE")
    seen: dict[str, str] = {}
    for one in transcripts:
        if one.sha256 in seen:
            raise UsageError(f"{one.source} is the transcript {seen[one.sha256]} once more; give it once")
        seen[one.sha256] = one.source


def _choose_loss(transcripts: Sequence[Transcript], distill: DistillSpec) -> DistillationLoss:
    """The loss that was asked for, or the one that goes with what the transcripts tell.

    Raises:
        UsageError: "mse" with a transcript that tells log probabilities.
    """
    told = [one.source for one in transcripts if one.header.spec.targets != "scores"]
    if distill.loss == "mse" and told:
        raise UsageError(
            f"--loss mse compares scores, {told[0]} tells log-probs", hint="--loss kl, or publish with --targets scores"
        )
    return distill.loss or ("kl" if told else "mse")


def _task(transcripts: Sequence[Transcript], max_length: int | None) -> TaskSpec:
    """That of a new student: kind and labels of the first transcript."""
    longest = max_length or max(one.header.spec.task.max_length for one in transcripts)
    return replace(transcripts[0].header.spec.task, max_length=longest)


def _answers(transcripts: Sequence[Transcript], task: Task) -> tuple[int, list[SoftLabels]]:
    """How many outcomes there are, and the answers to each transcript in the student's numbering of them.

    Raises:
        LineageError: a transcript of another task, with other labels, or in another vocabulary.
    """
    own = task.spec
    vocabulary = vocabulary_of(task.tokenizer) if isinstance(task, CausalLM) else None
    found = []
    for one in transcripts:
        spec = one.header.spec
        if spec.task.kind != own.kind:
            raise LineageError(f"{one.source} is for {spec.task.kind}, the student for {own.kind}")
        if vocabulary is None and set(spec.task.labels) != set(own.labels):
            raise LineageError(
                f"{one.source}: its labels are {', '.join(spec.task.labels)}; the student's {', '.join(own.labels)}"
            )
        if vocabulary is not None and (spec.vocabulary, spec.n_outcomes) != (vocabulary.digest, vocabulary.size):
            raise LineageError(
                f"{one.source}: its vocabulary is {str(spec.vocabulary)[:12]}… with {spec.n_outcomes} tokens, the "
                f"student's {vocabulary.digest[:12]}… with {vocabulary.size}",
                hint="teacher and student need tokenizers with the same tokens under the same numbers",
            )
        order = [own.labels.index(label) for label in spec.task.labels]
        found.append(one.answers if vocabulary is not None else one.answers.renumbered(order))
    return len(own.labels) if vocabulary is None else vocabulary.size, found


def _taught(transcript: Transcript, trusted: Sequence[PublicKey]) -> Taught:
    spec = transcript.header.spec
    return Taught(
        teacher=spec.teacher,
        sha256=transcript.sha256,
        n_inputs=spec.n_inputs,
        n_answers=len(transcript.answers),
        signers=signers_of(transcript.signed_by, trusted),
    )
