"""The rows of a plan: some to measure on, the others for the clients of simulated rounds."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlpp_cli.engines.client_data import Cut
from fedlpp_cli.errors import DataError, UsageError
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.tasks.task import Example

_SHARDS: Final = "shards.jsonl"
# Of the calibration rows, where they have to serve for training as well.
_HELD_OUT: Final = 4


@dataclass(frozen=True, slots=True)
class Rows:
    """`held_out`: what models are measured on. `clients`: whose data is whose in the rounds. `split`: of their data."""

    held_out: tuple[Example, ...]
    clients: Mapping[str, RefLike] | Cut
    split: str | None


def share_out(
    data: Data, clients: Mapping[str, RefLike] | None, n_shards: int | None, folder: Path, *, split: str | None
) -> Rows:
    """Who gets which rows.

    With clients of their own, all rows are measured on. With shards every fourth row is, and the others, written to
    `folder`, are cut among as many clients.

    Args:
        data: the calibration rows.
        clients: client to data; None or empty for shards.
        n_shards: how many clients there are without data of their own.
        folder: private, of the owner.
        split: of the clients' data sets, where those have several.

    Raises:
        UsageError: neither clients nor a number of shards.
        DataError: fewer rows than that takes.
    """
    if n_shards is None:
        if not clients:
            raise UsageError("--shards is missing", hint="--shards 4, or [clients] in the --federation file")
        return Rows(data.examples, clients, split)
    if len(data.rows) < _HELD_OUT * (n_shards + 1):
        raise DataError(f"{len(data.rows)} rows: for {n_shards} shards, {_HELD_OUT * (n_shards + 1)} are needed")
    numbers = range(len(data.rows))
    held_out = tuple(data.examples[number] for number in numbers if number % _HELD_OUT == _HELD_OUT - 1)
    training = [data.rows[number].fields for number in numbers if number % _HELD_OUT != _HELD_OUT - 1]
    path = folder / _SHARDS
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(fields), default=str) + "\n" for fields in training)
    return Rows(held_out, Cut(data=path, n_clients=n_shards), None)
