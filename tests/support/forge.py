"""Make artifacts that are not what they should be, by way of the real writer."""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of, write_tensors
from fedlpp_cli.records.headers import Header, UpdateHeader

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8", "int32": "I32"}


def reforge(
    source: Path,
    target: Path,
    *,
    kind: type[Header] = UpdateHeader,
    change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
    **fields: object,
) -> Path:
    """Write a copy of an artifact with other header fields or tensors; sound in itself."""
    with TensorFile(source, kind) as file:
        tensors = change({name: file.read(name) for name in file.tensors})
        layout = {
            name: (DTYPES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape))
            for name, tensor in tensors.items()
        }
        with write_tensors(target, replace(file.header, **fields), layout or layout_of(file.tensors)) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
    return target


def read_all(path: Path) -> dict[str, Tensor]:
    """Every tensor of an artifact."""
    with TensorFile(path, Header) as file:
        return {name: file.read(name) for name in file.tensors}


def header_of(path: Path) -> Header:
    """An artifact's header."""
    with TensorFile(path, Header) as file:
        return file.header


def sha256_of(path: Path) -> str:
    """An artifact's identity."""
    with TensorFile(path, Header) as file:
        return file.sha256
