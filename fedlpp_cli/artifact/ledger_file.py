"""A file that only grows, a line at a time, under a lock: what ledgers are kept in."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedlpp_cli.artifact.whole import write_all
from fedlpp_cli.errors import InputError


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
