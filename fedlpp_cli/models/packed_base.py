"""A private base in the packed layout, made dense: what `nf2`, `nf3`, `nf5`, `nf6` and `ternary` are opened with."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fedlpp_cli.artifact.folder import MANIFEST, read_manifest
from fedlpp_cli.artifact.safetensors_file import SafetensorsFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.quantization.base_layout import packed_spec, weight_layout
from fedlpp_cli.quantization.tensors import dequantize_tensor
from fedlpp_cli.records.headers import BaseArtifactSpec, BaseHeader, check_kind, decode_header


def packed_base_spec(folder: Path) -> BaseArtifactSpec | None:
    """What the manifest in `folder` says; None where the folder is an ordinary model or in bitsandbytes' layout.

    Raises:
        ArtifactError, LineageError: a manifest that is damaged or of something else.
    """
    if not (folder / MANIFEST).is_file():
        return None
    source = str(folder / MANIFEST)
    header = check_kind(decode_header(read_manifest(folder), source=source), BaseHeader, source=source)
    return None if header.spec.quantize.bits is None else header.spec


def dense_weights(folder: Path, spec: BaseArtifactSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensor name, as in the owner's files, to value: level times scale in float32, rounded to `dtype`.

    Raises:
        ArtifactError: parts that do not fit together.
    """
    dense: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with SafetensorsFile(path) as file:
            for name in file.tensors:
                if name in spec.unquantized:
                    value = file.read(name)
                    dense[name] = value.to(dtype) if value.is_floating_point() else value
            for name, value in _packed(file, spec):
                dense[name] = value.to(dtype)
    return dense


def _packed(file: SafetensorsFile, spec: BaseArtifactSpec) -> Iterator[tuple[str, Tensor]]:
    quantize = packed_spec(spec.quantize)
    for name, shape in spec.shapes.items():
        layout = weight_layout(name, shape, spec.quantize)
        if not set(layout) <= set(file.tensors):
            continue
        parts = {part.removeprefix(f"{name}."): file.read(part) for part in layout}
        try:
            yield name, dequantize_tensor(parts, shape, quantize)
        except ValueError as error:
            raise ArtifactError(f"{file.path}: {name}: {error}") from None
