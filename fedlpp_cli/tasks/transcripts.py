"""Transcripts between memory and file. What is read may come from anybody."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.key_files import SigningKey
from fedlpp_cli.artifact.signatures import (
    TRANSCRIPT,
    check_signers,
    read_transcript_signatures,
    signatures_beside,
    write_transcript_signatures,
)
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.artifact.transcript_layout import (
    INDICES,
    INPUT_IDS,
    OFFSETS,
    TEXTS,
    answers_name,
    check_transcript,
    transcript_layout,
)
from fedlpp_cli.errors import ArtifactError, DigestError
from fedlpp_cli.records.headers import TranscriptHeader
from fedlpp_cli.records.keys import PublicKey
from fedlpp_cli.records.transcripts import TranscriptSpec
from fedlpp_cli.tasks.soft_labels import SoftLabels

# All of one kind: texts, or token ids.
Inputs = tuple[str | tuple[int, ...], ...]
# How far from 1 the probabilities of an answer may add up: its numbers are rounded.
_TOLERANCE: Final = 0.01
# Bytes of one text: a tokenizer has all of it at once.
_LONGEST_TEXT: Final = 2**24


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript that has been read: texts of a classifier or token ids of a language model, and the answers.

    Answers lie one behind the other: one to a text, or one behind each token of an input but its last. `signed_by`:
    whose good signatures lie beside it.
    """

    source: str
    sha256: str
    header: TranscriptHeader
    inputs: Inputs
    answers: SoftLabels
    signed_by: tuple[PublicKey, ...] = ()


def write_transcript(
    path: Path,
    header: TranscriptHeader,
    inputs: Inputs,
    answers: SoftLabels,
    *,
    sign: Sequence[SigningKey] = (),
    force: bool,
) -> str:
    """Write it, and signatures of these keys beside it; its sha256.

    Raises:
        OutputExistsError, OutputError: as `write_tensors`.
        ArtifactError: a header that nobody would read.
    """
    spec = header.spec
    pieces = [one.encode() if isinstance(one, str) else one for one in inputs]
    offsets = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0).to(torch.int32)
    units = [unit for piece in pieces for unit in piece]
    is_text = spec.vocabulary is None
    tensors = {
        OFFSETS: offsets,
        TEXTS if is_text else INPUT_IDS: torch.tensor(units, dtype=torch.uint8 if is_text else torch.int32),
        answers_name(spec): answers.values if spec.targets == "scores" else answers.values.half(),
    }
    if answers.indices is not None:
        tensors[INDICES] = answers.indices.to(torch.int32)
    with write_tensors(path, header, transcript_layout(spec, len(units)), force=force) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        sha256 = writer.sha256()
        write_transcript_signatures(path, sha256, sign, force=force)
    return sha256


def open_transcript(path: Path, *, signers: Collection[PublicKey] = ()) -> Transcript:
    """Read a transcript. Who signed is asked first: before that, nothing in it is parsed.

    Args:
        path: the file.
        signers: one of them must have signed it; without any, nobody has to.

    Raises:
        InputError, LineageError: no such file, or none with a transcript.
        SignatureError, SignerError: as `read_transcript_signatures` and `check_signers`.
        DigestError: the file was changed while it was read.
        OversizeError, ArtifactError: as `read_transcript`.
    """
    signed: str | None = None
    signed_by: tuple[PublicKey, ...] = ()
    if signers or os.path.lexists(signatures_beside(path)):
        signed = sha256_of_file(path)
        signed_by = read_transcript_signatures(path, signed)
        check_signers(signed_by, signers, source=str(path), scheme=TRANSCRIPT)
    with TensorFile(path, TranscriptHeader) as file:
        found = read_transcript(file)
    if signed not in (None, found.sha256):
        raise DigestError(f"{path}: changed while it was read")
    return replace(found, signed_by=signed_by)


def read_transcript(file: TensorFile[TranscriptHeader]) -> Transcript:
    """Read all of it, and check that everything in it can be.

    Raises:
        OversizeError, ArtifactError: naming what is wrong.
    """
    check_transcript(file)
    spec, source = file.header.spec, str(file.path)
    with file.hashing():
        inputs = _texts(file, source) if spec.vocabulary is None else _token_ids(file, spec, source)
        values = file.read(answers_name(spec)).float()
        indices = file.read(INDICES).long() if INDICES in file.tensors else None
    if not bool(torch.isfinite(values).all()):
        raise ArtifactError(f"{source}: an answer has a number that is not finite")
    if spec.targets == "log-probs":
        _check_probabilities(values, source)
    if indices is not None:
        is_ascending = bool((indices.diff(dim=-1) > 0).all())
        if not is_ascending or not _is_within(indices, spec.n_outcomes):
            raise ArtifactError(f"{source}: indices of an answer are not ascending from 0 to {spec.n_outcomes - 1}")
    return Transcript(source, file.sha256, file.header, inputs, SoftLabels(values, indices, spec.targets))


def _texts(file: TensorFile[TranscriptHeader], source: str) -> tuple[str, ...]:
    data = file.read(TEXTS).numpy().tobytes()
    try:
        return tuple(data[start:stop].decode() for start, stop in _spans(file, len(data), 1, _LONGEST_TEXT, source))
    except UnicodeDecodeError:
        raise ArtifactError(f"{source}: a text is not UTF-8") from None


def _token_ids(file: TensorFile[TranscriptHeader], spec: TranscriptSpec, source: str) -> tuple[tuple[int, ...], ...]:
    ids = file.read(INPUT_IDS)
    if not _is_within(ids, spec.n_outcomes):
        raise ArtifactError(f"{source}: input_ids are not from 0 to {spec.n_outcomes - 1}")
    spans = _spans(file, len(ids), 2, spec.task.max_length, source)
    numbers = ids.tolist()
    return tuple(tuple(numbers[start:stop]) for start, stop in spans)


def _spans(
    file: TensorFile[TranscriptHeader], n_units: int, shortest: int, longest: int, source: str
) -> Sequence[tuple[int, int]]:
    """Start and stop of each input."""
    offsets = file.read(OFFSETS).long()
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != n_units:
        raise ArtifactError(f"{source}: offsets do not go from 0 to {n_units}")
    if int(lengths.min()) < shortest or int(lengths.max()) > longest:
        found = f"{int(lengths.min())} to {int(lengths.max())}"
        raise ArtifactError(f"{source}: inputs have lengths {found}, {shortest} to {longest} is allowed")
    return list(pairwise(offsets.tolist()))


def _check_probabilities(log_probs: Tensor, source: str) -> None:
    if bool((log_probs > 0).any()):
        raise ArtifactError(f"{source}: an answer has a probability above 1")
    off = float((log_probs.exp().sum(-1) - 1).abs().max())
    if off > _TOLERANCE:
        raise ArtifactError(f"{source}: the probabilities of an answer add up to {off:.3g} more or less than 1")


def _is_within(numbers: Tensor, n: int) -> bool:
    return int(numbers.min()) >= 0 and int(numbers.max()) < n
