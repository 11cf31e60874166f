"""A file that only grows, a line at a time, under a lock: what ledgers are kept in."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fedlpp_cli import canonical
from fedlpp_cli.artifact.whole import write_all
from fedlpp_cli.errors import ArtifactError, InputError
from fedlpp_cli.records.record import Record, to_plain

MAX_BYTES: Final = 2**26
MAX_LINE_BYTES: Final = 2**14


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """A descriptor of the file at `path`, made if it is missing, that no other process has locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path}: not a regular file", hint="--ledger FILE")
            # Two processes without a lock could each pass what only one may, so there is no way around it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file is still the one under that name: an editor may have put another there meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def append(descriptor: int, data: bytes, size: int) -> None:
    """All of `data` behind the first `size` bytes and on disk, or none of it.

    Also without anything new: whoever wrote the last line may have been killed before it was on disk.
    """
    try:
        write_all(descriptor, data, size)
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def whole_lines(data: bytes, path: Path, *, hint: str | None = None) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Where each line that is not empty stands, and what it says; and how many bytes of the file say it.

    A last line without an end that is no JSON was cut short while it was written: it does not count.

    Raises:
        ArtifactError: another line that is damaged, or more than MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"{path}: a ledger of more than {MAX_BYTES} bytes is not read", hint=hint)
    *lines, last = data.split(b"\n")
    size = len(data)
    if last:
        try:
            canonical.decode_object(last, source=str(path), max_bytes=MAX_LINE_BYTES)
            lines.append(last)
        except ArtifactError:
            size -= len(last)
    sources = ((f"{path}: line {number}", line) for number, line in enumerate(lines, 1) if line)
    return [
        (source, canonical.decode_object(line, source=source, max_bytes=MAX_LINE_BYTES)) for source, line in sources
    ], size


def append_records(descriptor: int, records: Sequence[Record], data: bytes, size: int) -> None:
    """A line for each record behind the first `size` bytes of `data`, in place of what a kill left behind them."""
    os.ftruncate(descriptor, size)
    start = b"\n" if records and size and not data[:size].endswith(b"\n") else b""
    append(descriptor, start + b"".join(canonical.encode(to_plain(one)) + b"\n" for one in records), size)
