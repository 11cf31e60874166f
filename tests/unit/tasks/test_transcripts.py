"""Transcripts on disk: what is written reads back, and what a stranger may have written is refused."""

import pytest
import torch
from msgspec.structs import replace
from support.forge import reforge
from support.tiny import make_tokenizer

from fedlpp_cli.artifact import transcript_layout
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError, OversizeError
from fedlpp_cli.records.headers import TranscriptHeader, encode_header
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.records.transcripts import InputsSpec, TranscriptSpec
from fedlpp_cli.tasks.soft_labels import soft_labels
from fedlpp_cli.tasks.transcripts import read_transcript, write_transcript
from fedlpp_cli.tasks.vocabulary import vocabulary_of

COMMON = {"teacher": "north", "inputs": InputsSpec(source="random")}
CLASSIFIER = TranscriptSpec(
    **COMMON, task=TaskSpec(kind="seq-cls", labels=("a", "b", "c")), vocabulary=None, n_outcomes=3, top_k=2, n_inputs=3
)
TOKENS = TranscriptSpec(**COMMON, task=TaskSpec(max_length=4), vocabulary="ab" * 32, n_outcomes=9, top_k=2, n_inputs=2)
INPUTS = {"texts": ("one", "zwei ü", "<three>"), "input_ids": ((8, 0, 3), (1, 2, 3, 4))}


def logits(n, n_outcomes):
    return torch.arange(n * n_outcomes).mul(0.37).sin().reshape(n, n_outcomes)


def write(path, spec, inputs, n):
    header = TranscriptHeader(federation=None, round=0, parents={}, spec=spec)
    answers = soft_labels(logits(n, spec.n_outcomes), spec.top_k, spec.targets)
    write_transcript(path, header, inputs, answers, force=False)
    return header, answers


@pytest.fixture
def texts(tmp_path):
    write(tmp_path / "texts", CLASSIFIER, INPUTS["texts"], 3)
    return tmp_path / "texts"


@pytest.fixture
def tokens(tmp_path):
    write(tmp_path / "tokens", TOKENS, INPUTS["input_ids"], 5)
    return tmp_path / "tokens"


def read(path):
    with TensorFile(path, TranscriptHeader) as file:
        return read_transcript(file)


@pytest.mark.parametrize(
    ("spec", "inputs", "n"),
    [
        (CLASSIFIER, INPUTS["texts"], 3),
        (replace(CLASSIFIER, top_k=3), INPUTS["texts"], 3),
        (replace(CLASSIFIER, top_k=3, targets="scores"), INPUTS["texts"], 3),
        (TOKENS, INPUTS["input_ids"], 5),
        (replace(TOKENS, top_k=9), INPUTS["input_ids"], 5),
    ],
)
def test_what_was_written_reads_back(spec, inputs, n, tmp_path):
    header, answers = write(tmp_path / "t", spec, inputs, n)
    found = read(tmp_path / "t")
    assert (found.header, found.inputs) == (header, inputs)
    assert torch.equal(found.answers.values, answers.values)
    assert (found.answers.indices is None) == (spec.top_k == spec.n_outcomes)


def test_a_vocabulary_is_told_by_its_tokens_and_their_numbers():
    tokenizer, same, other = make_tokenizer(), make_tokenizer(chat_template="x"), make_tokenizer()
    other.add_tokens(["zz"])
    assert vocabulary_of(tokenizer) == vocabulary_of(same)
    assert vocabulary_of(tokenizer).digest != vocabulary_of(other).digest
    assert vocabulary_of(other).size == vocabulary_of(tokenizer).size + 1


SPOILED_TEXTS = {
    "a text that is not UTF-8": ("texts", lambda t: t.index_fill(0, torch.tensor([0]), 255), "not UTF-8"),
    "a text cut within a letter": ("offsets", lambda t: torch.tensor([0, 9, 10, 17]).int(), "not UTF-8"),
    "offsets that start late": ("offsets", lambda t: torch.tensor([1, 3, 10, 17]).int(), "offsets do not go"),
    "offsets that end early": ("offsets", lambda t: torch.tensor([0, 3, 10, 16]).int(), "offsets do not go"),
    "offsets that go back": ("offsets", lambda t: torch.tensor([0, 12, 3, 17]).int(), "lengths"),
    "an empty text": ("offsets", lambda t: torch.tensor([0, 3, 3, 17]).int(), "lengths"),
    "negative offsets": ("offsets", lambda t: torch.tensor([0, -3, 10, 17]).int(), "lengths"),
    "NaN": ("log_probs", lambda t: t.fill_(float("nan")), "not finite"),
    "infinity": ("log_probs", lambda t: t.fill_(-float("inf")), "not finite"),
    "a probability above 1": ("log_probs", lambda t: t.abs(), "above 1"),
    "probabilities of more than 1": ("log_probs", lambda t: t.mul(0.25), "add up"),
    "probabilities of next to nothing": ("log_probs", lambda t: t.mul(8), "add up"),
    "an index twice": ("indices", lambda t: t.fill_(1), "not ascending"),
    "indices that fall": ("indices", lambda t: t.flip(-1), "not ascending"),
    "an index out of range": ("indices", lambda t: t + 2, "not ascending"),
    "a negative index": ("indices", lambda t: t - 3, "not ascending"),
    "one answer too few": ("log_probs", lambda t: t[:2], "the header announces"),
    "an outcome too many": ("log_probs", lambda t: torch.cat([t, t], 1), "the header announces"),
    "another dtype": ("log_probs", lambda t: t.float(), "the header announces"),
    "offsets too few": ("offsets", lambda t: t[:2], "the header announces"),
    "texts as numbers": ("texts", lambda t: t.int(), "the header announces"),
}


@pytest.mark.parametrize("name", SPOILED_TEXTS)
def test_a_spoiled_transcript_of_texts_is_refused(name, texts, tmp_path):
    tensor, spoil, match = SPOILED_TEXTS[name]
    change = lambda tensors: tensors | {tensor: spoil(tensors[tensor].clone()).contiguous()}  # noqa: E731
    with pytest.raises(ArtifactError, match=match):
        read(reforge(texts, tmp_path / "spoiled", kind=TranscriptHeader, change=change))


@pytest.mark.parametrize(
    ("tensor", "spoil", "match"),
    [
        ("input_ids", lambda t: t + 1, "input_ids are not from 0 to 8"),
        ("input_ids", lambda t: t - 1, "input_ids are not from 0 to 8"),
        ("offsets", lambda t: torch.tensor([0, 1, 7]).int(), "lengths 1 to 6"),
        ("offsets", lambda t: torch.tensor([0, 2, 7]).int(), "lengths 2 to 5"),
    ],
)
def test_a_spoiled_transcript_of_tokens_is_refused(tensor, spoil, match, tokens, tmp_path):
    change = lambda tensors: tensors | {tensor: spoil(tensors[tensor])}  # noqa: E731
    with pytest.raises(ArtifactError, match=match):
        read(reforge(tokens, tmp_path / "spoiled", kind=TranscriptHeader, change=change))


def test_tensors_that_nobody_announced_or_that_are_missing_are_refused(texts, tmp_path):
    more = reforge(
        texts, tmp_path / "more", kind=TranscriptHeader, change=lambda tensors: tensors | {"x": torch.zeros(1)}
    )
    with pytest.raises(ArtifactError, match="tensor 'x'"):
        read(more)
    for name in ("texts", "offsets", "indices", "log_probs"):
        change = lambda tensors, name=name: {key: value for key, value in tensors.items() if key != name}  # noqa: E731
        with pytest.raises(ArtifactError, match=r"missing|the header announces"):
            read(reforge(texts, tmp_path / f"no {name}", kind=TranscriptHeader, change=change))


def test_a_transcript_larger_than_memory_may_be_is_not_read(texts, monkeypatch):
    monkeypatch.setattr(transcript_layout, "MAX_BYTES", 100)
    with pytest.raises(OversizeError):
        read(texts)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"top_k": 4}, "top_k: 4 of 3"),
        ({"n_outcomes": 4}, "n_outcomes: 4, and there are 3 labels"),
        ({"vocabulary": "ab" * 32}, "vocabulary"),
        ({"targets": "scores"}, "scores are told of all"),
    ],
)
def test_a_header_that_cannot_be_is_not_written(fields, match):
    with pytest.raises((ValueError, ArtifactError), match=match):
        encode_header(TranscriptHeader(federation=None, round=0, parents={}, spec=replace(CLASSIFIER, **fields)))
