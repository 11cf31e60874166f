"""Open an artifact without knowing its kind beforehand."""

import stat
from pathlib import Path
from typing import Protocol

from fedlpp_cli.artifact.folder import open_folder, read_manifest
from fedlpp_cli.artifact.regular import input_errors
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import BaseHeader, Header, PackageHeader, decode_header


class Artifact(Protocol):
    """What every opened artifact has."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def header(self) -> Header:
        """What it says of itself."""
        ...

    @property
    def raw_header(self) -> bytes:
        """The header's bytes, unknown fields of newer versions included."""
        ...

    @property
    def sha256(self) -> str:
        """Its identity."""
        ...


def open_any(path: Path) -> Artifact:
    """Open whatever artifact lies at `path`, fully checked.

    Raises:
        InputError: missing or unreadable.
        ArtifactError, DigestError: not a sound artifact.
    """
    with input_errors(path):
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    if is_folder:
        header = decode_header(read_manifest(path), source=str(path))
        if isinstance(header, PackageHeader):
            return open_folder(path, PackageHeader)
        if isinstance(header, BaseHeader):
            return open_folder(path, BaseHeader)
        raise ArtifactError(f"{path}: a {header.kind} is not a folder")
    if path.suffix == ".json":
        return read_report(path)
    return TensorFile(path, Header)
