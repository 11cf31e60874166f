"""Is a base model that came in a package safe to open?

Its digests say that it is what the owner sent. This module says that opening it can run no code and read no memory
that is not its own: file names, configuration keys and the weights' own descriptions are held to closed lists, because
transformers and bitsandbytes act on them (`auto_map`, private configuration keys, patterns of names, sizes in a quant
state).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.artifact.folder import FolderArtifact
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.models.base_folder import CONFIG, TOKENIZER_FILES
from fedlpp_cli.models.base_tensors import INDEX
from fedlpp_cli.models.foreign_json import read_json
from fedlpp_cli.models.foreign_weights import check_foreign_weights
from fedlpp_cli.records.headers import BaseHeader
from fedlpp_cli.records.specs import BaseQuantSpec

_FILES: Final = {CONFIG, INDEX, *TOKENIZER_FILES}
_WEIGHTS: Final = re.compile(r"(?P<layout>model|packed)(-\d{5}-of-\d{5})?\.safetensors")
_FORBIDDEN_KEYS: Final = {"auto_map", "trust_remote_code", "custom_pipelines", "attn_implementation"}
_4BIT_KEYS: Final = {
    "quant_method", "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage", "llm_int8_skip_modules",
}  # fmt: skip
_8BIT_KEYS: Final = {"quant_method", "load_in_8bit", "llm_int8_threshold", "llm_int8_skip_modules"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
# transformers takes them for patterns: of these characters none repeats anything.
_MODULE: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}")


def check_foreign_base(base: FolderArtifact[BaseHeader]) -> None:
    """Refuse a base artifact that transformers or bitsandbytes should not see.

    Raises:
        ArtifactError: naming what is wrong.
    """
    names = {entry.name for entry in base.header.files}
    wanted = "model" if base.header.spec.quantize.bits is None else "packed"
    weights = {name for name in names if (match := _WEIGHTS.fullmatch(name)) and match["layout"] == wanted}
    odd = sorted(names - _FILES - weights)
    if odd:
        raise ArtifactError(f"{base.path}: {odd[0]} does not belong to a quantized base")
    if CONFIG not in names or not weights:
        raise ArtifactError(f"{base.path}: {CONFIG if CONFIG not in names else wanted + '.safetensors'} is missing")
    _check_config(base)
    for name in sorted(names & {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}):
        _check_keys(read_json(base.path / name), source=str(base.path / name))
    where = check_foreign_weights(base, sorted(weights))
    if INDEX in names:
        _check_index(base.path / INDEX, where)


def _check_config(base: FolderArtifact[BaseHeader]) -> None:
    source = str(base.path / CONFIG)
    config = read_json(base.path / CONFIG)
    _check_keys(config, source=source)
    if config.get("model_type") != base.header.spec.model_type:
        raise ArtifactError(f"{source}: model_type {config.get('model_type')!r} is not the manifest's")
    spec = base.header.spec.quantize
    quantization = config.get("quantization_config")
    if spec.bits is not None:
        if quantization is not None:
            raise ArtifactError(f"{source}: a packed base has no quantization_config")
        return
    keys = _8BIT_KEYS if spec.format == "int8" else _4BIT_KEYS
    if not isinstance(quantization, dict) or set(quantization) != keys:
        raise ArtifactError(f"{source}: quantization_config is not that of a base in {spec.format}")
    if _stated(quantization) != _expected(spec):
        raise ArtifactError(
            f"{source}: quantization_config {_stated(quantization)} is not the manifest's {spec.format}"
        )
    skipped = quantization["llm_int8_skip_modules"]
    if not isinstance(skipped, list) or not all(isinstance(name, str) and _MODULE.fullmatch(name) for name in skipped):
        raise ArtifactError(f"{source}: llm_int8_skip_modules is not a list of module names")


def _stated(quantization: Mapping[str, Any]) -> tuple[object, ...]:
    keys = ("quant_method", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
    return tuple(quantization.get(key) for key in keys)


def _expected(spec: BaseQuantSpec) -> tuple[object, ...]:
    if spec.format == "int8":
        return ("bitsandbytes", True, None, None)
    return ("bitsandbytes", None, spec.format, spec.double)


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


def _check_index(path: Path, where: Mapping[str, str]) -> None:
    index = read_json(path)
    if set(index) != {"metadata", "weight_map"} or index["weight_map"] != dict(where):
        raise ArtifactError(f"{path}: does not say where the tensors lie")
