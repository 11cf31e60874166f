"""Whose data is whose in a simulation: a file for each client, or one that is cut into shards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedlpp_cli.engines.partition import Scheme, Shards, column_shards, dirichlet_shards, iid_shards
from fedlpp_cli.errors import DataError, InputError, UsageError
from fedlpp_cli.progress import Progress
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.task import Example, Task

_LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One data set for all clients, and how it is cut; see `engines/partition.py`.

    `n_clients` None: with "column", one each value. `column`: what "column" goes by, and "dirichlet" takes for the
    label; None for the task's label.
    """

    data: RefLike
    n_clients: int | None = None
    scheme: Scheme = "iid"
    alpha: float = 1.0
    column: str | None = None

    def __post_init__(self) -> None:
        if self.n_clients is None and self.scheme != "column":
            raise UsageError("--clients is missing", hint="--clients 10, or --partition column --partition-column NAME")
        if self.scheme == "column" and self.column is None:
            raise UsageError("--partition column: --partition-column is missing")
        if self.scheme == "iid" and self.column is not None:
            raise UsageError("--partition-column goes with --partition column or dirichlet, not iid")


class Clients(Protocol):
    """Names, and what each client trains on."""

    @property
    def names(self) -> tuple[str, ...]:
        """All clients, in order."""
        ...

    def examples(self, client: str) -> Sequence[Example]:
        """The client's data."""
        ...

    def known_size(self, client: str) -> int | None:
        """How many examples that are, None where the data would have to be read to tell."""
        ...


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Each client has data of its own; read when it trains and then let go, however many clients there are."""

    refs: Mapping[str, Ref]
    task: Task
    columns: Mapping[str, str]
    split: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All clients, in order."""
        return tuple(self.refs)

    def examples(self, client: str) -> Sequence[Example]:
        """Read the client's data. Raises as `load_data`."""
        return load_data(self.refs[client], self.task, columns=self.columns, split=self.split).examples

    def known_size(self, client: str) -> int | None:
        """None."""
        return None


@dataclass(frozen=True, slots=True)
class CutData:
    """All examples, and the row numbers of each client: read and encoded once."""

    all_examples: Sequence[Example]
    shards: Mapping[str, Sequence[int]]

    @property
    def names(self) -> tuple[str, ...]:
        """All clients, in order."""
        return tuple(self.shards)

    def examples(self, client: str) -> Sequence[Example]:
        """The client's shard, rows in the order of the data."""
        return [self.all_examples[row] for row in self.shards[client]]

    def known_size(self, client: str) -> int | None:
        """Size of the shard."""
        return len(self.shards[client])


def known_names(source: Mapping[str, RefLike] | Cut) -> tuple[str, ...] | None:
    """All clients, None where the data would have to be read to tell."""
    if not isinstance(source, Cut):
        return tuple(source)
    return None if source.n_clients is None else tuple(_shard_name(number) for number in range(source.n_clients))


def open_clients(
    source: Mapping[str, RefLike] | Cut,
    task: Task,
    *,
    columns: Mapping[str, str],
    split: str | None,
    seed: int,
    on_progress: Progress,
) -> Clients:
    """Everybody's data, ready to be asked for.

    Args:
        source: client to data, or one data set that is cut.
        task: encodes rows.
        columns: field name to column name, where they differ.
        split: of a data set that has several.
        seed: of the federation; the cut's draws depend on it.
        on_progress: told what is going on.

    Raises:
        UsageError: no clients, or more than there is data for.
        InputError, DataError: data that is missing or malformed; of clients' own files only whether they are there.
    """
    if isinstance(source, Cut):
        data = load_data(parse_ref(source.data), task, columns=columns, split=split, on_progress=on_progress)
        shards = _shards(source, data, task, columns, seed)
        return CutData(data.examples, {_shard_name(number): shard for number, shard in enumerate(shards)})
    if not source:
        raise UsageError("no clients", hint="[clients] in the --federation file, or --data FILE --clients N")
    refs = {client: parse_ref(ref) for client, ref in source.items()}
    for client, ref in refs.items():
        if isinstance(ref, Path) and not ref.exists():
            raise InputError(f"client {client!r}: {ref}: no such data file")
    return OwnFiles(refs, task, columns, split)


def _shard_name(number: int) -> str:
    return f"client-{number:04d}"


def _shards(cut: Cut, data: Data, task: Task, columns: Mapping[str, str], seed: int) -> Shards:
    if cut.scheme == "iid":
        return iid_shards(len(data.examples), cut.n_clients or 0, seed=seed)
    column = cut.column
    if column is None:
        if task.spec.kind != "seq-cls":
            raise UsageError("--partition dirichlet: rows have no label; --partition-column names a column that is one")
        column = columns.get(_LABEL, _LABEL)
    for row in data.rows:
        if column not in row.fields:
            raise DataError(f"{row.where}: no column {column!r}; found {', '.join(map(str, row.fields))}")
    values = [json.dumps(row.fields[column], sort_keys=True, default=str) for row in data.rows]
    if cut.scheme == "column":
        return column_shards(values, cut.n_clients)
    return dirichlet_shards(values, cut.n_clients or 0, alpha=cut.alpha, seed=seed)
