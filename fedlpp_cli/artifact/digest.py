"""sha256 of files: the identity of every artifact."""

import hashlib
import os
from pathlib import Path

from fedlpp_cli.artifact.regular import input_errors, open_regular


def sha256_of_bytes(data: bytes) -> str:
    """Lower-case hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path, *, follow: bool = True) -> str:
    """Lower-case hex sha256 of a file's bytes, read once.

    Raises:
        InputError: the file cannot be read.
    """
    with os.fdopen(open_regular(path, follow=follow), "rb") as stream, input_errors(path):
        return hashlib.file_digest(stream, "sha256").hexdigest()
