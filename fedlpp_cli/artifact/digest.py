"""sha256 of files: the identity of every artifact."""

import hashlib
from pathlib import Path

from fedlpp_cli.errors import InputError


def sha256_of_bytes(data: bytes) -> str:
    """Lower-case hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Lower-case hex sha256 of a file's bytes, read once.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
