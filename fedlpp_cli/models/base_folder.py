"""Where a base model lies, and whether it is the one that was agreed on. Loads no torch."""

import json
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.errors import ModelError
from fedlpp_cli.records.specs import BaseSpec

CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
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
    if (folder / _INDEX).is_file():
        weights = [_INDEX, *_shards(folder / _INDEX)]
    elif (folder / _WEIGHTS).is_file():
        weights = [_WEIGHTS]
    else:
        raise ModelError(
            f"{folder}: no {_WEIGHTS}; weights in other formats can run code when they are opened",
            hint="save the model again with save_pretrained, which writes safetensors",
        )
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


def check_base(folder: Path, spec: BaseSpec) -> None:
    """Refuse a base model that is not byte for byte the one in `spec`.

    Raises:
        ModelError: a file is missing or differs.
    """
    for name, expected in spec.files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing, the agreed base model has it")
        found = sha256_of_file(folder / name)
        if found != expected:
            raise ModelError(
                f"{folder / name}: sha256 is {found[:12]}…, the agreed base model has {expected[:12]}…",
                hint=f"get the base from {spec.hub}" if spec.hub else "ask the owner which base model is meant",
            )
    extra = sorted(set(files_of_base(folder)) - set(spec.files))
    if extra:
        raise ModelError(f"{folder}: {extra[0]} is not part of the agreed base model")


def _shards(index: Path) -> list[str]:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: not a shard index ({error!r})") from None
    for name in shards:
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: shard {name!r} is not a safetensors file beside the index")
        if not (index.parent / name).is_file():
            raise ModelError(f"{index}: shard {name} is missing")
    return shards
