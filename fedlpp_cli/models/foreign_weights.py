"""Are the tensors of a base model that came in a package exactly those that its manifest announces?"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact.folder import FolderArtifact
from fedlpp_cli.artifact.regular import open_regular
from fedlpp_cli.artifact.tensor_header import ANY_DTYPE, TensorInfo, read_infos
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.models.foreign_json import parse_json
from fedlpp_cli.quantization.base_layout import QUANT_STATE, Layout, encode_state, state_name, weight_layout
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import BaseHeader
from fedlpp_cli.records.specs import BaseQuantSpec

_MAX_STATE: Final = 2**16
_DTYPES: Final = {"bfloat16", "float16", "float32"}


def check_foreign_weights(base: FolderArtifact[BaseHeader], names: Sequence[str]) -> dict[str, str]:
    """Tensor name to file.

    Args:
        base: the artifact.
        names: its weight files.

    Raises:
        ArtifactError: naming the first tensor that is not as announced.
    """
    where: dict[str, str] = {}
    infos: dict[str, TensorInfo] = {}
    for name in names:
        for tensor, info in read_infos(base.path / name, dtypes=ANY_DTYPE).items():
            if tensor in where:
                raise ArtifactError(f"{base.path}: {tensor} lies in {where[tensor]} and in {name}")
            where[tensor], infos[tensor] = name, info
    spec = base.header.spec
    announced: Layout = {}
    shapes = rounded_shapes(base, infos, where)
    for name, n_hidden in spec.masked.items():
        if n_hidden >= math.prod(shapes.get(name, ())):
            raise ArtifactError(f"{base.path}: {name} cannot have {n_hidden} hidden weights")
    for name, shape in shapes.items():
        announced |= weight_layout(name, shape, spec.quantize)
        state = state_name(name, spec.quantize)
        if state in announced:  # how long it is says nothing
            announced[state] = ("U8", infos[state].shape)
    announced |= {name: (dtype, infos[name].shape) for name, dtype in spec.unquantized.items() if name in infos}
    found = {name: (info.dtype, info.shape) for name, info in infos.items()}
    for name in sorted({*found, *announced, *spec.unquantized}):
        if found.get(name) != announced.get(name, ()):
            raise ArtifactError(
                f"{base.path}: {name} is {found.get(name, 'missing')}, the manifest announces "
                f"{announced.get(name, 'none')}"
            )
    return where


def rounded_shapes(
    base: FolderArtifact[BaseHeader], infos: Mapping[str, TensorInfo], where: Mapping[str, str]
) -> dict[str, Shape]:
    """Name to shape of the weights that are rounded, as the manifest or the tensors beside them say.

    Raises:
        ArtifactError: a description that is not sound.
    """
    spec, path = base.header.spec.quantize, base.path
    if spec.bits is not None:
        return dict(base.header.spec.shapes)
    shapes: dict[str, Shape] = {}
    for name, info in infos.items():
        if spec.format == "int8":
            weight = name.removesuffix("SCB") + "weight"
            if name.endswith(".SCB") and weight in infos:
                if len(info.shape) != 1 or len(infos[weight].shape) != 2:
                    raise ArtifactError(f"{path}: {weight} is not a matrix with a scale a row")
                shapes[weight] = infos[weight].shape
            continue
        weight, mark, kind = name.partition(QUANT_STATE)
        if mark:
            if kind != spec.format:
                raise ArtifactError(f"{path}: {weight} is {kind!r}, the manifest says {spec.format!r}")
            shapes[weight] = _stated_shape(path / where[name], weight, info, spec)
    return shapes


def _stated_shape(path: Path, weight: str, info: TensorInfo, spec: BaseQuantSpec) -> Shape:
    """The shape in a quant state, which says nothing else than what the manifest says."""
    if info.n_bytes > _MAX_STATE:
        raise ArtifactError(f"{path}: {info.name} is too large")
    with os.fdopen(open_regular(path, follow=False), "rb") as stream:
        stream.seek(info.start)
        state = parse_json(stream.read(info.n_bytes), source=f"{path}: {info.name}")
    shape, dtype, offset = state.get("shape"), state.get("dtype"), state.get("nested_offset", 0.0)
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 2**40 for n in shape):
        raise ArtifactError(f"{path}: {weight} has an impossible shape {shape!r:.60}")
    expected = json.loads(encode_state(tuple(shape), str(dtype), spec, offset=0.0))
    if dtype not in _DTYPES or {**state, "nested_offset": 0.0} != {"nested_offset": 0.0, **expected}:
        raise ArtifactError(f"{path}: {weight} describes itself as {state!r:.200}")
    if type(offset) is not float:
        raise ArtifactError(f"{path}: {weight} has the offset {offset!r:.40}")
    return tuple(shape)
