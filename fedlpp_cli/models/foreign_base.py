"""Is a base model that came in a package safe to open?

Its digests say that it is what the owner sent. This module says that opening it can run no code and read no memory
that is not its own: file names, configuration keys and the 4-bit weights' own descriptions are held to closed lists,
because transformers and bitsandbytes act on them (`auto_map`, private configuration keys, sizes in a quant state).
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.artifact.folder import FolderArtifact
from fedlpp_cli.artifact.regular import open_regular, read_regular
from fedlpp_cli.artifact.tensor_header import TensorInfo, read_infos
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.models.base_folder import CONFIG, TOKENIZER_FILES
from fedlpp_cli.models.quantized_base import QUANT_STATE, WEIGHTS
from fedlpp_cli.records.headers import BaseHeader

_FILES: Final = {CONFIG, WEIGHTS, *TOKENIZER_FILES}
_FORBIDDEN_KEYS: Final = {"auto_map", "trust_remote_code", "custom_pipelines", "attn_implementation"}
_QUANTIZATION_KEYS: Final = {
    "quant_method", "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage", "llm_int8_skip_modules",
}  # fmt: skip
_BLOCK: Final = 64
_NESTED_BLOCK: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_JSON: Final = 64 * 2**20


def check_foreign_base(base: FolderArtifact[BaseHeader]) -> None:
    """Refuse a base artifact that transformers or bitsandbytes should not see.

    Raises:
        ArtifactError: naming what is wrong.
    """
    names = {entry.name for entry in base.header.files}
    odd = sorted(names - _FILES)
    if odd:
        raise ArtifactError(f"{base.path}: {odd[0]} does not belong to a quantized base")
    for needed in (CONFIG, WEIGHTS):
        if needed not in names:
            raise ArtifactError(f"{base.path}: {needed} is missing")
    _check_config(base)
    for name in sorted(names & {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}):
        _check_keys(_read_json(base.path / name), source=str(base.path / name))
    _check_weights(base)


def _check_config(base: FolderArtifact[BaseHeader]) -> None:
    source = str(base.path / CONFIG)
    config = _read_json(base.path / CONFIG)
    quantization = config.get("quantization_config")
    _check_keys(config, source=source)
    if config.get("model_type") != base.header.spec.model_type:
        raise ArtifactError(f"{source}: model_type {config.get('model_type')!r} is not the manifest's")
    if not isinstance(quantization, dict) or set(quantization) != _QUANTIZATION_KEYS:
        raise ArtifactError(f"{source}: quantization_config is not that of a 4-bit base")
    found = (
        quantization["quant_method"],
        quantization["bnb_4bit_quant_type"],
        quantization["bnb_4bit_use_double_quant"],
    )
    spec = base.header.spec.quantize
    if found != ("bitsandbytes", spec.format, spec.double):
        raise ArtifactError(f"{source}: quantization_config {found} is not the manifest's {spec.format}")


def _check_keys(value: object, *, source: str) -> None:
    for key in _keys(value):
        if key in _FORBIDDEN_KEYS or key.startswith("_"):
            raise ArtifactError(f"{source}: key {key!r} may make transformers run code; refused")


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            # Tokens are keys too ("_" is one); what transformers acts on is spelt like a name.
            if len(key) > 1 and _NAME.fullmatch(key):
                yield key
            yield from _keys(child)
    elif isinstance(value, list):
        for child in value:
            yield from _keys(child)


def _check_weights(base: FolderArtifact[BaseHeader]) -> None:
    path = base.path / WEIGHTS
    infos = read_infos(path)
    described = set(base.header.spec.unquantized)
    for name in sorted(name for name in infos if QUANT_STATE in name):
        weight, _, kind = name.partition(QUANT_STATE)
        if kind != base.header.spec.quantize.format:
            raise ArtifactError(f"{path}: {weight} is {kind!r}, the manifest says {base.header.spec.quantize.format!r}")
        described |= _check_quantized(path, weight, infos, name, double=base.header.spec.quantize.double)
    if set(infos) != described:
        raise ArtifactError(f"{path}: {min(set(infos) ^ described)} is not as the manifest describes")
    for name, dtype in base.header.spec.unquantized.items():
        if infos[name].dtype != dtype:
            raise ArtifactError(f"{path}: {name} is {infos[name].dtype}, the manifest says {dtype}")


def _check_quantized(
    path: Path, weight: str, infos: Mapping[str, TensorInfo], state_name: str, *, double: bool
) -> set[str]:
    """Names of the tensors of one 4-bit weight, whose sizes fit together."""
    state = _read_state(path, infos[state_name])
    shape = state.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 2**40 for size in shape):
        raise ArtifactError(f"{path}: {weight} has an impossible shape {shape!r:.60}")
    n_elements = math.prod(shape)
    n_blocks = -(-n_elements // _BLOCK)
    needed = {
        weight: ("U8", -(-n_elements // 2)),
        f"{weight}.absmax": ("U8" if double else "F32", n_blocks),
        f"{weight}.quant_map": ("F32", 16),
        state_name: ("U8", infos[state_name].n_elements),
    }
    if double:
        needed[f"{weight}.nested_absmax"] = ("F32", -(-n_blocks // _NESTED_BLOCK))
        needed[f"{weight}.nested_quant_map"] = ("F32", 256)
    for name, kind in needed.items():
        found = infos.get(name)
        if found is None or (found.dtype, found.n_elements) != kind:
            raise ArtifactError(f"{path}: {name} does not fit a 4-bit weight of shape {shape}")
    expected = {"quant_type": state_name.partition(QUANT_STATE)[2], "blocksize": _BLOCK}
    if double:
        expected |= {"nested_blocksize": _NESTED_BLOCK, "nested_dtype": "float32"}
    if {key: state.get(key) for key in expected} != expected or state.get("dtype") not in {"bfloat16", "float32"}:
        raise ArtifactError(f"{path}: {weight} describes itself as {state!r:.200}")
    if set(state) - set(expected) - {"dtype", "shape", "nested_offset"}:
        raise ArtifactError(f"{path}: {weight} describes itself with unknown fields")
    return set(needed)


def _read_state(path: Path, info: TensorInfo) -> dict[str, Any]:
    if info.n_bytes > 2**16:
        raise ArtifactError(f"{path}: {info.name} is too large")
    with os.fdopen(open_regular(path, follow=False), "rb") as stream:
        stream.seek(info.start)
        return _parse_json(stream.read(info.n_bytes), source=f"{path}: {info.name}")


def _read_json(path: Path) -> dict[str, Any]:
    data = read_regular(path, _MAX_JSON + 1, follow=False)
    if len(data) > _MAX_JSON:
        raise ArtifactError(f"{path}: too large")
    return _parse_json(data, source=str(path))


def _parse_json(data: bytes, *, source: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{source}: not a JSON object")
    return value
