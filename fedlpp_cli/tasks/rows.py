"""Rows of data from the files that people have: jsonl, csv, parquet, a saved `datasets` folder.

Rows are read straight from the file, one after the other. Nothing is copied into a cache: a client's data stays
where it is. Every row knows where it stands, so that an error can say so.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.errors import DataError, InputError

DEFAULT_SPLIT: Final = "train"
_SUFFIXES: Final = ".jsonl, .csv, .parquet, or a folder saved by datasets"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its fields by column name, and where it stands, such as "notes.jsonl, line 3"."""

    where: str
    fields: Mapping[str, Any]


def read_rows(path: Path, *, split: str | None = None) -> Iterator[Row]:
    """The rows of a file or folder, in order.

    Args:
        path: the data; its suffix says how to read it.
        split: which split of a folder with several, "train" by default.

    Raises:
        InputError: missing, or of a kind that is not read.
        DataError: a malformed row, with file and line.
    """
    if not path.exists():
        raise InputError(f"{path}: no such data file")
    if path.is_dir():
        return _read_saved(path, split)
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return _read_jsonl(path)
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            return _read_parquet(path)
    raise InputError(
        f"{path}: cannot tell how to read {path.suffix or 'a file without suffix'!r}; read are {_SUFFIXES}"
    )


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            try:
                fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error})") from None
            if not isinstance(fields, dict):
                raise DataError(f"{where}: {_kind(fields)}, an object with named fields is needed")
            yield Row(where, fields)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        names: Sequence[str] | None = None
        while True:
            where = f"{path.name}, line {reader.line_num + 1}"
            try:
                if names is None:
                    names = reader.fieldnames or ()
                    continue
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{where}: not CSV ({error})") from None
            if fields is None:
                return
            if None in fields or None in fields.values():
                raise DataError(f"{where}: another number of cells than the {len(names)} names in the first line")
            yield Row(where, fields)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name}, row {number}", fields)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name}, after row {number}: not parquet ({error})") from None


def _read_saved(path: Path, split: str | None) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a folder saved by datasets ({error})") from None
    return rows_of_dataset(saved, split, name=path.name)


def rows_of_dataset(data: Any, split: str | None, *, name: str) -> Iterator[Row]:
    """The rows of a `datasets.Dataset`, or of one split of a `DatasetDict`.

    Raises:
        InputError: no such split.
    """
    import datasets

    if isinstance(data, datasets.DatasetDict):
        wanted = split or DEFAULT_SPLIT
        if wanted not in data:
            raise InputError(f"{name}: no split {wanted!r}; there are {', '.join(data)}", hint="--split NAME")
        data = data[wanted]
    return (Row(f"{name}, row {number}", fields) for number, fields in enumerate(data, start=1))


def field_text(row: Row, field: str, columns: Mapping[str, str]) -> str:
    """The string in a field.

    Args:
        row: where to look.
        field: what the task calls it, such as "text".
        columns: what the data calls it, where that differs.

    Raises:
        DataError: missing, not a string, or empty.
    """
    value = field_value(row, field, columns)
    if not isinstance(value, str) or not value:
        found = "empty" if value == "" else _kind(value)
        raise DataError(f"{row.where}: field {_spell(field, columns)} is {found}, some text is needed")
    return value


def field_value(row: Row, field: str, columns: Mapping[str, str]) -> Any:
    """Whatever is in a field.

    Raises:
        DataError: the row has no such field.
    """
    column = columns.get(field, field)
    if column not in row.fields:
        found = ", ".join(str(name) for name in row.fields) or "nothing"
        raise DataError(
            f"{row.where}: no field {_spell(field, columns)}; found {found}", hint=f"--column {field}=NAME names it"
        )
    return row.fields[column]


def has_field(row: Row, field: str, columns: Mapping[str, str]) -> bool:
    """Whether the row has that field."""
    return columns.get(field, field) in row.fields


def _spell(field: str, columns: Mapping[str, str]) -> str:
    column = columns.get(field, field)
    return repr(field) if column == field else f"{field!r} (column {column!r})"


def _kind(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r:.40}"
