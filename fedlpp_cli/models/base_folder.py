"""Where a base model lies, and whether it is the one that was agreed on. Loads no torch."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.base_tensors import INDEX, shards_of
from fedlpp_cli.records.specs import BaseSpec

CONFIG: Final = "config.json"
TOKENIZER_FILES: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def files_of_base(folder: Path) -> list[str]:
    """Names of the files that make up the model in `folder`: configuration, weights, tokenizer; sorted.

    Raises:
        ModelError: no configuration, no safetensors weights, or an index that names a file outside the folder.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: no {CONFIG}, so no transformers model lies there")
    index = [INDEX] if (folder / INDEX).is_file() else []
    weights = [*index, *shards_of(folder)]
    return sorted([CONFIG, *weights, *(name for name in TOKENIZER_FILES if (folder / name).is_file())])


def identify_base(folder: Path, *, private: bool, hub: str | None) -> BaseSpec:
    """The record by which others recognize this base model."""
    digests = {name: sha256_of_file(folder / name) for name in files_of_base(folder)}
    return BaseSpec(model_type=model_type_of(folder), private=private, hub=hub, files=digests)


def model_type_of(folder: Path) -> str:
    """The `model_type` of the configuration, such as "llama".

    Raises:
        ModelError: the configuration cannot be read, or asks for code of its own.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG}: not a model configuration ({error!r})") from None
    if not isinstance(model_type, str) or "auto_map" in config:
        raise ModelError(f"{folder / CONFIG}: models that bring their own code are not opened")
    return model_type


def check_base(folder: Path, spec: BaseSpec, *, skip: Collection[str] = ()) -> None:
    """Refuse a base model that is not byte for byte the one in `spec`.

    Args:
        folder: where it lies.
        spec: what was agreed on.
        skip: files whose content is checked elsewhere, by `check_base_file`.

    Raises:
        ModelError: a file is missing or differs.
    """
    for name in spec.files:
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing, the agreed base model has it")
        if name not in skip:
            check_base_file(folder, name, spec)
    extra = sorted(set(files_of_base(folder)) - set(spec.files))
    if extra:
        raise ModelError(f"{folder}: {extra[0]} is not part of the agreed base model")


def check_base_file(folder: Path, name: str, spec: BaseSpec) -> None:
    """Refuse a file of a base model that is not the one in `spec`.

    Raises:
        ModelError: it differs, or is no part of the model.
    """
    found, expected = sha256_of_file(folder / name), spec.files.get(name, "")
    if found != expected:
        raise ModelError(
            f"{folder / name}: sha256 is {found[:12]}…, the agreed base model has {expected[:12] or 'no such file'}…",
            hint=f"get the base from {spec.hub}" if spec.hub else "ask the owner which base model is meant",
        )
