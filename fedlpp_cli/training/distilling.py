"""Learning from a teacher's answers instead of labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.records.transcripts import DistillationLoss
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.soft_labels import SoftLabels, answered_logits
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.tasks.transcripts import Transcript
from fedlpp_cli.training.distillation_loss import distillation_loss
from fedlpp_cli.training.gradients import Chosen, StepGradient
from fedlpp_cli.training.proximal import ProximalTerm


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson(Example):
    """An input, and where its answers lie: `n_answers` of the answers of transcript `transcript`, from `first` on."""

    transcript: int
    first: int
    n_answers: int

    @property
    def rows(self) -> range:
        """The numbers of its answers."""
        return range(self.first, self.first + self.n_answers)


class DistillGradient:
    """That of the mean loss over all answers to a step's lessons; clipped as a whole.

    Of two teachers who answer the same input both count: up to a constant the sum of two divergences is twice that from
    the mean of both answers.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        transcripts: Sequence[SoftLabels],
        spec: TrainSpec,
        *,
        n_outcomes: int,
        loss: DistillationLoss,
        temperature: float,
    ) -> None:
        """Note where the adapter is now: FedProx's term holds it near there.

        Args:
            adapted: the student.
            task: gives batches.
            transcripts: the answers of each.
            spec: `max_grad_norm` and `proximal_mu`.
            n_outcomes: tokens of the vocabulary, or labels; a model may have room for more.
            loss: how answers are compared.
            temperature: of "kl".
        """
        self._adapted, self._task, self._transcripts = adapted, task, transcripts
        self._n_outcomes, self._loss, self._temperature = n_outcomes, loss, temperature
        self._max_norm = spec.max_grad_norm
        self._parameters = list(adapted.parameters.values())
        self._proximal = ProximalTerm(self._parameters, spec.proximal_mu)

    def compute(self, batches: Sequence[Chosen]) -> StepGradient:
        """As `Gradient`: forward and backward, a batch at a time."""
        for parameter in self._parameters:
            parameter.grad = None
        n_answers = sum(lesson.n_answers for batch in batches for lesson in _lessons(batch))
        loss = 0.0
        for batch in batches:
            part = self._sum_of(_lessons(batch)) / n_answers
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        self._proximal.add_gradient()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm or torch.inf)
        return StepGradient(loss, norm.item())

    def _sum_of(self, lessons: Sequence[Lesson]) -> Tensor:
        """The losses of a batch, added up, transcript after transcript."""
        batch = self._task.collate(lessons)
        labels = batch.pop("labels")
        said = answered_logits(self._adapted.logits(batch), labels)[:, : self._n_outcomes]
        teachers = torch.tensor([lesson.transcript for lesson in lessons for _ in range(lesson.n_answers)])
        total = said.new_zeros((), dtype=torch.float32)
        for number in sorted({lesson.transcript for lesson in lessons}):
            rows = [row for lesson in lessons if lesson.transcript == number for row in lesson.rows]
            answers = self._transcripts[number].rows(torch.tensor(rows))
            own = said[(teachers == number).to(said.device)]
            total = total + distillation_loss(own, answers, self._loss, self._temperature)
        return total


def lessons_of(transcript: Transcript, number: int, task: Task) -> list[Lesson]:
    """The inputs of a transcript for a student; what is longer than the task's `max_length` is cut, with its answers.

    Args:
        transcript: one that fits the task.
        number: which of the student's transcripts it is.
        task: encodes texts with the student's tokenizer.

    Raises:
        DataError: a text without any token.
    """
    lessons: list[Lesson] = []
    first, longest = 0, task.spec.max_length
    for place, given in enumerate(transcript.inputs):
        if isinstance(given, str):
            row = Row(f"{transcript.source}, input {place}", {"text": given, "label": 0})
            example, n_answers, n_given = task.encode(row), 1, 1
        else:
            ids = given[:longest]
            example = Example(ids, ids, was_cut=len(given) > longest)
            n_answers, n_given = len(ids) - 1, len(given) - 1
        lessons.append(
            Lesson(
                example.input_ids,
                example.labels,
                example.was_cut,
                example.type_ids,
                transcript=number,
                first=first,
                n_answers=n_answers,
            )
        )
        first += n_given
    return lessons


def _lessons(examples: Chosen) -> list[Lesson]:
    lessons = [example for example in examples if isinstance(example, Lesson)]
    if len(lessons) != len(examples):
        raise TypeError("an example without answers cannot be distilled")
    return lessons
