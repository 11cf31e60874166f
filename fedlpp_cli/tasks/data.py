"""Examples from wherever the data lies: a file, a saved folder, or a data set on the Hub."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact import store
from fedlpp_cli.errors import DataError, InputError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.refs import HubRef, Ref
from fedlpp_cli.tasks.rows import DEFAULT_SPLIT, Row, read_rows, rows_of_dataset
from fedlpp_cli.tasks.task import Example, Task

COLUMN_FIELDS: Final = ("text", "prompt", "completion", "messages", "label", "text_pair")


@dataclass(frozen=True, slots=True)
class Data:
    """Rows that have been read and turned into examples. `sha256` is over the rows, not over a file."""

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    sha256: str

    @property
    def n_cut(self) -> int:
        """How many examples were longer than the task's `max_length`."""
        return sum(example.was_cut for example in self.examples)


def load_data(
    ref: Ref,
    task: Task,
    *,
    columns: Mapping[str, str],
    split: str | None = None,
    limit: int | None = None,
    on_progress: Progress = silent,
) -> Data:
    """Read and encode rows.

    Args:
        ref: a path, `hf://datasets/owner/repo/file.jsonl`, or a whole data set `hf://datasets/owner/repo`.
        task: encodes rows.
        columns: field name to column name, where they differ.
        split: of a data set that has several.
        limit: take only the first rows.
        on_progress: told now and then.

    Raises:
        InputError: missing, or of a kind that is not read.
        DataError: a malformed row, or no rows.
    """
    unknown = sorted(set(columns) - set(COLUMN_FIELDS))
    if unknown:
        raise DataError(f"columns: no field {unknown[0]!r}; fields are {', '.join(COLUMN_FIELDS)}")
    rows: list[Row] = []
    examples: list[Example] = []
    digest = hashlib.sha256()
    for row in _rows(ref, split):
        if limit is not None and len(rows) == limit:
            break
        examples.append(task.encode(row))
        rows.append(row)
        used = {field: row.fields.get(columns.get(field, field)) for field in COLUMN_FIELDS}
        digest.update(json.dumps(used, sort_keys=True, default=str).encode())
        if len(rows) % 1000 == 0:
            on_progress("reading data", len(rows), 0)
    if not rows:
        raise DataError(f"{ref}: no rows")
    return Data(tuple(rows), tuple(examples), digest.hexdigest())


def _rows(ref: Ref, split: str | None) -> Iterator[Row]:
    if isinstance(ref, Path):
        return read_rows(ref, split=split)
    if ref.path:
        return read_rows(store.fetch(ref), split=split)
    return _rows_of_hub_dataset(ref, split)


def _rows_of_hub_dataset(ref: HubRef, split: str | None) -> Iterator[Row]:
    if ref.repo_type != "dataset":
        raise InputError(f"{ref}: a model repository holds no data set", hint="hf://datasets/owner/repo")
    # Not by its address: where anything goes wrong, datasets takes whichever commit it has from an earlier time.
    folder = store.fetch(ref)
    import datasets

    with _quiet_datasets():
        try:
            data = datasets.load_dataset(str(folder), split=split or DEFAULT_SPLIT)
        except Exception as error:  # noqa: BLE001  # over the files of strangers, datasets raises whatever comes up
            said = str(error.__cause__ or error).partition("\n")[0] or type(error).__name__
            raise InputError(f"{ref}: datasets cannot load it ({said})") from None
    return rows_of_dataset(data, None, name=ref.name)


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    logger, had_bars = logging.getLogger("datasets"), not datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()
