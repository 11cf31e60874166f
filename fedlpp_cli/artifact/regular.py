"""Open a file that may be anything: what a stranger put under a name need not be a file."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedlpp_cli.errors import InputError


def open_regular(path: Path, *, follow: bool = True) -> int:
    """A descriptor to read from. With `follow` a link stands for what it points to.

    Raises:
        InputError: missing, unreadable, or not a regular file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    if not follow and path.is_symlink():
        raise InputError(f"{path}: a link, a plain file is needed")
    with input_errors(path):
        descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InputError(f"{path}: {'a folder, a file is needed' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return descriptor


def read_regular(path: Path, n_bytes: int, *, follow: bool = True) -> bytes:
    """The first `n_bytes`, or all if there are fewer.

    Raises:
        InputError: as `open_regular`.
    """
    with os.fdopen(open_regular(path, follow=follow), "rb") as stream, input_errors(path):
        return stream.read(n_bytes)


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into an InputError about `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
