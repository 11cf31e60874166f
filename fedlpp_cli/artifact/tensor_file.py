"""Read and write artifacts that are one safetensors file, a tensor at a time."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, cast

from fedlpp_cli.artifact import tensor_header
from fedlpp_cli.artifact.safetensors_file import TORCH_NAMES, SafetensorsFile
from fedlpp_cli.artifact.tensor_header import ANY_DTYPE, DTYPE_BYTES, METADATA_KEY, NUMBERED_BYTES, TensorInfo
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import (
    CheckpointHeader,
    Header,
    HeaderT,
    HeaderT_co,
    MasterHeader,
    ProxyHeader,
    StateHeader,
    TranscriptHeader,
    UpdateHeader,
    check_kind,
    decode_header,
    encode_header,
)

if TYPE_CHECKING:
    import torch

_HASHED_BYTES: Final = 2**20
_KINDS: Final = (MasterHeader, ProxyHeader, UpdateHeader, StateHeader, CheckpointHeader, TranscriptHeader)


class TensorFile(SafetensorsFile, Generic[HeaderT_co]):
    """An open artifact: its header is checked on opening, a tensor is read when asked for."""

    def __init__(self, path: Path, kind: type[HeaderT_co]) -> None:
        """Open and check.

        Args:
            path: the file.
            kind: the class of header that is needed; `Header` takes any.

        Raises:
            InputError: missing or unreadable.
            ArtifactError: not a sound artifact.
            LineageError: a sound artifact of another kind.
        """
        self._digest, self._n_hashed, self._is_hashing = hashlib.sha256(), 0, False
        super().__init__(path, dtypes=NUMBERED_BYTES)
        source = str(path)
        try:
            self.raw_header = tensor_header.artifact_header(self.metadata, source=source)
            header = decode_header(self.raw_header, source=source)
            if not isinstance(header, _KINDS):
                raise ArtifactError(f"{source}: a {header.kind} is not a tensor file")
            _check_dtypes(header, self.tensors, source=source)
            self.header: HeaderT_co = check_kind(header, kind, source=source)
        except BaseException:
            self.close()
            raise

    @cached_property
    def sha256(self) -> str:
        """The artifact's identity: sha256 of the whole file.

        Raises:
            ArtifactError: the file was cut short under us.
        """
        digest = self._digest.copy()
        self._hash(digest, self._n_hashed, self.n_bytes)
        return digest.hexdigest()

    @contextlib.contextmanager
    def hashing(self) -> Iterator[None]:
        """Within, bytes are hashed as they are read, by one thread; `sha256` then reads only what is left."""
        self._is_hashing = True
        try:
            yield
        finally:
            self._is_hashing = False

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on; several threads may, but for `hashing`.

        Raises:
            ArtifactError: the file was cut short under us.
        """
        super().read_into(view, offset)
        stop = offset + len(view)
        if self._is_hashing and stop > self._n_hashed:
            self._hash(self._digest, self._n_hashed, offset)
            self._digest.update(view[max(0, self._n_hashed - offset) :])
            self._n_hashed = stop

    def _hash(self, digest: "hashlib._Hash", start: int, stop: int) -> None:
        """Hash the bytes from `start` to `stop`, none if there are none between."""
        buffer = memoryview(bytearray(max(0, min(_HASHED_BYTES, stop - start))))
        for offset in range(start, stop, _HASHED_BYTES):
            piece = buffer[: stop - offset]
            super().read_into(piece, offset)
            digest.update(piece)

    def narrow(self, kind: type[HeaderT]) -> "TensorFile[HeaderT]":
        """This file, known to be of that kind.

        Raises:
            LineageError: it is of another.
        """
        check_kind(self.header, kind, source=str(self.path))
        return cast("TensorFile[HeaderT]", self)


class TensorWriter:
    """The other direction: tensors in any order, each exactly once. Made by `write_tensors`."""

    def __init__(self, target: Path, descriptor: int, header: Header, layout: "Layout") -> None:
        self._target, self._descriptor = target, descriptor
        prefix, self._infos = tensor_header.build(layout, (METADATA_KEY, encode_header(header).decode("ascii")))
        n_bytes = max((info.stop for info in self._infos.values()), default=len(prefix))
        _, infos = tensor_header.parse(prefix, n_bytes, source=str(target), dtypes=NUMBERED_BYTES)
        _check_dtypes(header, infos, source=str(target))  # what nobody would read is not written
        self._missing = set(layout)
        with output_errors(target):
            write_all(descriptor, prefix, 0)

    def write(self, name: str, tensor: "torch.Tensor") -> None:
        """Put one tensor in its place.

        Raises:
            OutputError: no space.
            ValueError: a name, dtype or shape other than announced, or a tensor written twice.
        """
        import torch

        info = self._infos.get(name)
        if info is None:
            raise ValueError(f"{name!r}: no tensor of that name was announced")
        found = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if name not in self._missing or found != (TORCH_NAMES[info.dtype], info.shape):
            raise ValueError(f"{name}: {found} does not fit {info.dtype} {info.shape}, or was written before")
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        with output_errors(self._target):
            write_all(self._descriptor, flat.numpy().data, info.start)
        self._missing.discard(name)

    def sha256(self) -> str:
        """The artifact's identity, when every tensor is written and before the file has its name.

        Raises:
            OutputError: the draft cannot be read back.
            ValueError: a tensor is missing.
        """
        self.finish()
        digest, offset = hashlib.sha256(), 0
        with output_errors(self._target):
            while piece := os.pread(self._descriptor, _HASHED_BYTES, offset):
                digest.update(piece)
                offset += len(piece)
        return digest.hexdigest()

    def finish(self) -> None:
        """Check that nothing is missing."""
        if self._missing:
            raise ValueError(f"tensors announced and not written: {sorted(self._missing)[:3]}")


def _check_dtypes(header: Header, infos: Mapping[str, TensorInfo], *, source: str) -> None:
    """Whole numbers are a transcript's alone: everything else is made of weights, or of codes in bytes."""
    if isinstance(header, TranscriptHeader):
        return
    for info in infos.values():
        if info.dtype not in DTYPE_BYTES:
            raise ArtifactError(
                f"{source}: tensor {info.name!r} has dtype {info.dtype!r}, not {', '.join(DTYPE_BYTES)}"
            )


Layout = Mapping[str, tuple[str, tuple[int, ...]]]


@contextlib.contextmanager
def write_tensors(
    target: Path, header: Header, layout: Layout, *, private: bool = False, force: bool = False
) -> Iterator[TensorWriter]:
    """Write an artifact that appears whole or not at all.

    Args:
        target: the file.
        header: what it says of itself.
        layout: name to (dtype, shape) of every tensor, dtype as safetensors spells it.
        private: readable by its owner alone.
        force: replace an existing file.

    Raises:
        OutputExistsError, OutputError: as `whole_file`.
        ArtifactError: a header or layout that nobody would read.
    """
    with whole_file(target, private=private, force=force) as descriptor:
        writer = TensorWriter(target, descriptor, header, layout)
        yield writer
        writer.finish()


def layout_bytes(layout: Layout) -> int:
    """How many bytes the tensors take."""
    return sum(math.prod(shape) * ANY_DTYPE[dtype] for dtype, shape in layout.values())


def layout_of(infos: Mapping[str, TensorInfo]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape) of an open file's tensors."""
    return {name: (info.dtype, info.shape) for name, info in infos.items()}
