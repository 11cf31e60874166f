"""Which tensors a transcript holds. Loads no torch.

n inputs have P answers: a classifier gives one to each text, a language model one behind each token but the last.

    offsets      I32 (n + 1,)       where each input starts, and where the last one ends
    input_ids    I32 (tokens,)      of a language model, one input behind the other
    texts        U8 (bytes,)        of a classifier, UTF-8, one behind the other
    indices      I32 (P, k)         the k likeliest outcomes, ascending by number; not there where all are told
    log_probs    F16 (P, k + 1)     of those, and of the rest as one; (P, k) where all are told
    scores       F32 (P, k)         instead of log_probs, of all outcomes
"""

from typing import Final

from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.errors import ArtifactError, OversizeError
from fedlpp_cli.records.headers import TranscriptHeader
from fedlpp_cli.records.transcripts import TranscriptSpec

OFFSETS: Final = "offsets"
INPUT_IDS: Final = "input_ids"
TEXTS: Final = "texts"
INDICES: Final = "indices"
# Whoever reads one has all of it in memory.
MAX_BYTES: Final = 4 * 2**30


def inputs_name(spec: TranscriptSpec) -> str:
    """The tensor that inputs lie in."""
    return TEXTS if spec.vocabulary is None else INPUT_IDS


def answers_name(spec: TranscriptSpec) -> str:
    """The tensor that answers lie in."""
    return "scores" if spec.targets == "scores" else "log_probs"


def transcript_layout(spec: TranscriptSpec, n_units: int) -> Layout:
    """Name to (dtype, shape) of every tensor.

    Args:
        spec: what the header says.
        n_units: tokens or bytes of all inputs.
    """
    n_answers = spec.n_inputs if spec.vocabulary is None else n_units - spec.n_inputs
    tells_all = spec.top_k == spec.n_outcomes
    answers = ("F32" if spec.targets == "scores" else "F16", (n_answers, spec.top_k + (not tells_all)))
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        OFFSETS: ("I32", (spec.n_inputs + 1,)),
        inputs_name(spec): ("U8" if spec.vocabulary is None else "I32", (n_units,)),
        answers_name(spec): answers,
    }
    return layout if tells_all else {**layout, INDICES: ("I32", (n_answers, spec.top_k))}


def check_transcript(transcript: TensorFile[TranscriptHeader]) -> None:
    """Refuse a transcript whose tensors are not those that its header announces; values are not looked at.

    Raises:
        OversizeError: more bytes than are ever read.
        ArtifactError: naming the tensor.
    """
    if transcript.n_bytes > MAX_BYTES:
        raise OversizeError(f"{transcript.path}: {transcript.n_bytes} bytes, a transcript has {MAX_BYTES} at most")
    spec, found = transcript.header.spec, layout_of(transcript.tensors)
    inputs = transcript.tensors.get(inputs_name(spec))
    expected = transcript_layout(spec, inputs.n_elements if inputs else 0)
    if found != expected:
        name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ArtifactError(
            f"{transcript.path}: tensor {name!r} is {found.get(name, 'missing')}, the header announces "
            f"{expected.get(name, 'none')}"
        )
