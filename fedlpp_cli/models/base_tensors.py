"""The tensors in a base model's safetensors files, and that files and index agree. Loads no torch."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.artifact.tensor_header import ANY_DTYPE, TensorInfo, read_infos
from fedlpp_cli.errors import ArtifactError, ModelError

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """Where a tensor lies: the file's name, and its place in it."""

    shard: str
    info: TensorInfo


def base_tensors(folder: Path) -> dict[str, SourceTensor]:
    """Tensor name to place, shard after shard, in the order of the bytes.

    Raises:
        ModelError: a shard that is missing, not in the index or in it twice, or a tensor that is not where the index
            says.
    """
    weight_map = read_index(folder / INDEX) if (folder / INDEX).is_file() else None
    found: dict[str, SourceTensor] = {}
    for shard in shards_of(folder):
        try:
            infos = read_infos(folder / shard, dtypes=ANY_DTYPE)
        except ArtifactError as error:
            raise ModelError(str(error)) from None
        for name, info in sorted(infos.items(), key=lambda item: item[1].start):
            if name in found:
                raise ModelError(f"{folder}: tensor {name!r} lies in {found[name].shard} and in {shard}")
            found[name] = SourceTensor(shard, info)
    for name, shard in (weight_map or {}).items():
        if name not in found or found[name].shard != shard:
            raise ModelError(f"{folder / INDEX}: tensor {name!r} does not lie in {shard}")
    if weight_map is not None and set(found) - set(weight_map):
        raise ModelError(f"{folder / INDEX}: tensor {min(set(found) - set(weight_map))!r} is missing")
    return found


def shards_of(folder: Path) -> list[str]:
    """Names of the weight files, in order.

    Raises:
        ModelError: none, one that is missing, or an index that does not fit.
    """
    if not (folder / INDEX).is_file():
        if (folder / WEIGHTS).is_file():
            return [WEIGHTS]
        raise ModelError(
            f"{folder}: no {WEIGHTS}; weights in other formats can run code when they are opened",
            hint="save the model again with save_pretrained, which writes safetensors",
        )
    shards = sorted(set(read_index(folder / INDEX).values()))
    if not shards:
        raise ModelError(f"{folder / INDEX}: names no shard")
    for name in shards:
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX}: shard {name!r} is not a safetensors file beside the index")
        if not (folder / name).is_file():
            raise ModelError(f"{folder / INDEX}: shard {name} is missing")
    _check_numbers(folder, shards)
    return shards


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to shard.

    Raises:
        ModelError: unreadable, or a tensor is listed twice.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)["weight_map"]
        return {str(name): shard for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{path}: not a shard index ({error})") from None


def _check_numbers(folder: Path, shards: Iterable[str]) -> None:
    """Shards say how many they are: "model-00002-of-00004.safetensors"."""
    for shard in shards:
        match = _SHARD.fullmatch(shard)
        if match is None:
            continue
        for number in range(1, int(match["count"]) + 1):
            name = f"{match['stem']}-{number:05d}-of-{match['count']}.safetensors"
            if name not in shards:
                raise ModelError(f"{folder / INDEX}: shard {name} is not in it, {shard} says that there is one")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r} is listed twice")
        result[name] = value
    return result
