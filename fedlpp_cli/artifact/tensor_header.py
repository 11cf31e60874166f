"""The safetensors header: made byte for byte as the safetensors library makes it, read more strictly than it does.

A file is 8 bytes of little-endian length, a JSON header, and the tensors' bytes without a gap. The header maps
each tensor's name to `{dtype, shape, data_offsets}`; `__metadata__` holds one entry, `fedlpp`, with the artifact's
own header (several entries would come out in random order: safetensors keeps them in a hash map).

Nothing here loads torch, so that a file can be looked at, or refused, in milliseconds.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn

from fedlpp_cli.artifact.regular import input_errors, open_regular
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import MAX_HEADER_BYTES

METADATA_KEY: Final = "fedlpp"
MAX_TENSORS: Final = 20_000
MAX_RANK: Final = 8
MAX_DIMENSION: Final = 2**40
# Bytes an element, in the order in which safetensors sorts them: widest first, so that every tensor stays aligned.
ANY_DTYPE: Final = {
    "U64": 8, "I64": 8, "F64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# What artifacts that are one file have.
DTYPE_BYTES: Final = {name: ANY_DTYPE[name] for name in ("F32", "BF16", "F16", "U8")}
# And with whole numbers, which only transcripts have.
NUMBERED_BYTES: Final = {name: ANY_DTYPE[name] for name in (*DTYPE_BYTES, "I32")}
_DTYPE_ORDER: Final = {name: index for index, name in enumerate(ANY_DTYPE)}
# A module's name, of 256 characters at most, a factor's, and a part's.
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,319}")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `dtype` is a key of DTYPE_BYTES, `start` and `stop` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes it takes in the file."""
        return self.stop - self.start


def build(
    layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: tuple[str, str]
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The bytes in front of the tensors, and where each tensor goes.

    Args:
        layout: name to (dtype, shape).
        metadata: name and text of the one metadata entry.
    """
    header: dict[str, Any] = {"__metadata__": dict([metadata])}
    offset, spans = 0, {}
    for name in sorted(layout, key=lambda name: (_DTYPE_ORDER[layout[name][0]], name)):
        dtype, shape = layout[name]
        stop = offset + math.prod(shape) * ANY_DTYPE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        spans[name], offset = (offset, stop), stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    infos = {
        name: TensorInfo(name, *layout[name], start=first + start, stop=first + stop)
        for name, (start, stop) in spans.items()
    }
    return len(text).to_bytes(8, "little") + text, infos


def parse(
    prefix: bytes, file_bytes: int, *, source: str, dtypes: Mapping[str, int] = DTYPE_BYTES
) -> tuple[object, dict[str, TensorInfo]]:
    """The metadata, whatever it is, and the tensors of a file that may be hostile.

    Args:
        prefix: at least the length field and the header; longer is fine.
        file_bytes: size of the whole file.
        source: what to call the file in an error.
        dtypes: those that it may have, with their bytes.

    Raises:
        ArtifactError: anything that is not exactly the format.
    """
    n_header = header_bytes(prefix[:8], file_bytes, source=source)
    text = prefix[8 : 8 + n_header]
    if not text.startswith(b"{"):
        raise ArtifactError(f"{source}: not a safetensors file (the header does not begin with an object)")
    try:
        raw = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_int=_natural_number,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: the safetensors header is not valid JSON ({error})") from None
    metadata = raw.pop("__metadata__", None)
    if not _is_text_for_text(metadata):
        raise ArtifactError(f"{source}: the safetensors metadata is not text for text")
    if len(raw) > MAX_TENSORS:
        raise ArtifactError(f"{source}: {len(raw)} tensors, at most {MAX_TENSORS} are read")
    first = 8 + n_header
    infos = [_tensor_info(name, entry, first, dtypes, source=source) for name, entry in raw.items()]
    _check_cover(infos, first, file_bytes, source=source)
    return metadata, {info.name: info for info in sorted(infos, key=lambda info: info.name)}


def read_infos(path: Path, *, dtypes: Mapping[str, int] = DTYPE_BYTES) -> dict[str, TensorInfo]:
    """The tensors of any safetensors file, an artifact or not; `dtypes` as for `parse`.

    Raises:
        InputError: missing or unreadable.
        ArtifactError: not exactly the format.
    """
    with os.fdopen(open_regular(path), "rb") as stream, input_errors(path):
        n_bytes = os.fstat(stream.fileno()).st_size
        n_header = header_bytes(stream.read(8), n_bytes, source=str(path))
        stream.seek(0)
        return parse(stream.read(8 + n_header), n_bytes, source=str(path), dtypes=dtypes)[1]


def artifact_header(metadata: object, *, source: str) -> bytes:
    """The artifact's own header out of the file's metadata.

    Raises:
        ArtifactError: metadata that is not exactly that one text.
    """
    if isinstance(metadata, dict) and set(metadata) == {METADATA_KEY} and isinstance(metadata[METADATA_KEY], str):
        text: str = metadata[METADATA_KEY]
        return text.encode()
    raise ArtifactError(f"{source}: not a fedlpp artifact (no {METADATA_KEY!r} header in its metadata)")


def header_bytes(length_field: bytes, file_bytes: int, *, source: str) -> int:
    """Length of the JSON header, checked against caps and the file.

    Raises:
        ArtifactError: too short a file, or a length that cannot be.
    """
    if len(length_field) < 8:
        raise ArtifactError(f"{source}: {file_bytes} bytes, not a safetensors file")
    n_header = int.from_bytes(length_field, "little")
    if n_header > MAX_HEADER_BYTES or 8 + n_header > file_bytes:
        raise ArtifactError(
            f"{source}: not a safetensors file, or cut short (header of {n_header} bytes in a file of {file_bytes})"
        )
    return n_header


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r:.80} stands twice")
        result[key] = value
    return result


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text:.40} is not an integer")


def _natural_number(text: str) -> int:
    if text.startswith("-"):  # even "-0", which safetensors does not read
        raise ValueError(f"{text:.40} is below zero")
    return int(text)


def _is_text_for_text(metadata: object) -> bool:
    """None, or strings by strings; no lone surrogates, which UTF-8 cannot say."""
    if not isinstance(metadata, dict):
        return metadata is None
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def _tensor_info(name: str, entry: object, first: int, dtypes: Mapping[str, int], *, source: str) -> TensorInfo:
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{source}: tensor name {name!r:.80} is not made of letters, digits, '_', '-' and '.'")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError(f"{source}: tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise ArtifactError(f"{source}: tensor {name!r} has dtype {dtype!r:.80}, not {', '.join(dtypes)}")
    if not _is_list_of_ints(shape, 1, MAX_DIMENSION) or len(shape) > MAX_RANK:
        raise ArtifactError(f"{source}: tensor {name!r} has an impossible shape {shape!r:.80}")
    if not _is_list_of_ints(offsets, 0, 2**63) or len(offsets) != 2:
        raise ArtifactError(f"{source}: tensor {name!r} has impossible data_offsets {offsets!r:.80}")
    if offsets[1] - offsets[0] != math.prod(shape) * dtypes[dtype]:
        raise ArtifactError(
            f"{source}: tensor {name!r} of shape {shape} and dtype {dtype} does not fill offsets {offsets}"
        )
    start, stop = first + offsets[0], first + offsets[1]
    return TensorInfo(sys.intern(name), sys.intern(dtype), _shared(tuple(shape)), start, stop)


@lru_cache(maxsize=1024)
def _shared(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One object for equal shapes, as for equal names: an owner has the files of a whole round open."""
    return shape


def _is_list_of_ints(value: object, low: int, high: int) -> bool:
    return isinstance(value, list) and all(type(item) is int and low <= item < high for item in value)


def _check_cover(infos: Iterable[TensorInfo], first: int, file_bytes: int, *, source: str) -> None:
    position = first
    for info in sorted(infos, key=lambda info: info.start):
        if info.start != position:
            raise ArtifactError(f"{source}: a gap or an overlap in front of tensor {info.name!r}")
        position = info.stop
    if position != file_bytes:
        raise ArtifactError(f"{source}: tensors end at byte {position}, the file has {file_bytes}")
