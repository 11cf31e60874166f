"""What a transcript says of itself, and how a student learns from transcripts."""

from typing import Annotated, Literal

from msgspec import Meta

from fedlpp_cli.records.record import Count, Digest, PartyName, PositiveInt, Record
from fedlpp_cli.records.specs import TaskSpec

InputSource = Literal["random", "templates", "sampled"]
Targets = Literal["log-probs", "scores"]
DistillationLoss = Literal["kl", "mse"]

DEFAULT_TOP_K = 8


class InputsSpec(Record, frozen=True, kw_only=True):
    """How a transcript's inputs were made: never from rows. `templates`: sha256 of the file that they come from."""

    source: InputSource
    seed: Count = 0
    templates: Digest | None = None

    def __post_init__(self) -> None:
        if (self.source == "templates") != (self.templates is not None):
            raise ValueError("templates: inputs from templates have a digest of them, others have none")


class TranscriptSpec(Record, frozen=True, kw_only=True):
    """Who answered, in which terms, and how much of each answer is told.

    `vocabulary`: of a language model, the digest of its tokenizer's table of tokens (`tasks/vocabulary.py`); inputs are
    token ids then. A classifier's inputs are texts, and it has None. `n_outcomes`: tokens, or labels, that an answer is
    about; `top_k` of them are told, and the rest as one. `targets` "log-probs" are of temperature 1; "scores" are what
    the model says before any softmax, of all outcomes.
    """

    teacher: PartyName
    task: TaskSpec
    vocabulary: Digest | None
    n_outcomes: Annotated[int, Meta(ge=2, le=2**24)]
    targets: Targets = "log-probs"
    top_k: PositiveInt
    n_inputs: Annotated[int, Meta(ge=1, le=2**24)]
    inputs: InputsSpec

    def __post_init__(self) -> None:
        is_classifier = self.task.kind == "seq-cls"
        if is_classifier != (self.vocabulary is None):
            raise ValueError("vocabulary: a language model's is needed, a classifier has none")
        if is_classifier and self.n_outcomes != len(self.task.labels):
            raise ValueError(f"n_outcomes: {self.n_outcomes}, and there are {len(self.task.labels)} labels")
        if self.top_k > self.n_outcomes:
            raise ValueError(f"top_k: {self.top_k} of {self.n_outcomes} outcomes")
        if self.targets == "scores" and self.top_k != self.n_outcomes:
            raise ValueError("top_k: scores are told of all outcomes")


class PublishSpec(Record, frozen=True, kw_only=True):
    """How much a teacher says. `top_k` None: all labels, or 8 tokens. `batch_size`: of the teacher's own computing."""

    n_inputs: Annotated[int, Meta(ge=1, le=2**24)] = 1000
    seed: Count = 0
    top_k: PositiveInt | None = None
    targets: Targets = "log-probs"
    batch_size: PositiveInt = 16


class DistillSpec(Record, frozen=True, kw_only=True):
    """How a student is held against its teachers (Hinton et al. 2015, arXiv 1503.02531).

    `loss` "kl": KL divergence of the student's answers from the teacher's, both at `temperature`, times its square;
    "mse": mean squared difference of scores. None: "mse" where all transcripts tell scores, else "kl".
    """

    temperature: Annotated[float, Meta(gt=0, le=100)] = 2.0
    loss: DistillationLoss | None = None
