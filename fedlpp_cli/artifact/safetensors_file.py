"""Read tensors out of any safetensors file, one when asked for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from fedlpp_cli.artifact import tensor_header
from fedlpp_cli.artifact.regular import input_errors, open_regular
from fedlpp_cli.artifact.tensor_header import ANY_DTYPE
from fedlpp_cli.errors import ArtifactError

if TYPE_CHECKING:
    import torch

TORCH_NAMES: Final = {
    "F32": "float32", "BF16": "bfloat16", "F16": "float16", "U8": "uint8", "I8": "int8", "I64": "int64",
    "I32": "int32", "BOOL": "bool",
}  # fmt: skip
_READ_BYTES: Final = 2**30


class SafetensorsFile:
    """An open file: its header is checked on opening, a tensor is read when asked for.

    Bytes are read into memory of their own, never mapped, so that a file that shrinks or changes under a reader
    gives an error and not a crash.
    """

    def __init__(self, path: Path, *, dtypes: Mapping[str, int] = ANY_DTYPE) -> None:
        """Open and check.

        Args:
            path: the file.
            dtypes: those that its tensors may have, with their bytes.

        Raises:
            InputError: missing or unreadable.
            ArtifactError: not exactly the format.
        """
        self.path = path
        self._descriptor = open_regular(path)
        try:
            self.n_bytes = os.fstat(self._descriptor).st_size
            start = self._pread(0, min(8, self.n_bytes))
            n_header = tensor_header.header_bytes(start, self.n_bytes, source=str(path))
            self.metadata, self.tensors = tensor_header.parse(
                self._pread(0, 8 + n_header), self.n_bytes, source=str(path), dtypes=dtypes
            )
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> "torch.Tensor":
        """The tensor of that name, in memory of its own.

        Raises:
            ArtifactError: no such tensor, or the file changed under us.
        """
        import torch

        info = self.tensors.get(name)
        if info is None:
            raise ArtifactError(f"{self.path}: no tensor {name!r}")
        flat = torch.empty(info.n_bytes, dtype=torch.uint8)
        self.read_into(flat.numpy().data, info.start)
        return flat.view(getattr(torch, TORCH_NAMES[info.dtype])).reshape(info.shape)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on; several threads may.

        Raises:
            ArtifactError: the file was cut short under us.
        """
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        while view:
            with input_errors(self.path):
                n_read = os.preadv(self._descriptor, [view[:_READ_BYTES]], offset)
            if n_read == 0:
                raise ArtifactError(f"{self.path}: was cut short while it was read")
            view, offset = view[n_read:], offset + n_read

    def close(self) -> None:
        """Give the file back. Reading afterwards fails."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pread(self, offset: int, n_bytes: int) -> bytes:
        data = bytearray(n_bytes)
        self.read_into(memoryview(data), offset)
        return bytes(data)
