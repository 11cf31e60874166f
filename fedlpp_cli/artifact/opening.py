"""Open an artifact without knowing its kind beforehand."""

import stat
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from fedlpp_cli.artifact.folder import FolderArtifact, check_folder, read_manifest
from fedlpp_cli.artifact.regular import input_errors
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.artifact.signatures import TRANSCRIPT, check_signers, read_signatures, read_transcript_signatures
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import BaseHeader, Header, PackageHeader, TranscriptHeader, decode_header
from fedlpp_cli.records.keys import PublicKey


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


def open_any(path: Path, *, signers: Collection[PublicKey] = ()) -> Artifact:
    """Open whatever artifact lies at `path`, fully checked.

    Args:
        path: a file or a folder.
        signers: a package must be signed by one of them; without any, by nobody.

    Raises:
        InputError: missing or unreadable.
        ArtifactError, DigestError: not a sound artifact.
        SignatureError, SignerError: as `read_signatures` and `check_signers`.
    """
    with input_errors(path):
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    if is_folder:
        raw = read_manifest(path)
        signed_by = read_signatures(path, raw)
        header = decode_header(raw, source=str(path))
        if isinstance(header, PackageHeader):
            check_signers(signed_by, signers, source=str(path))
            return check_folder(path, raw, header, signed_by)
        if isinstance(header, BaseHeader):
            return check_folder(path, raw, header, signed_by)
        raise ArtifactError(f"{path}: a {header.kind} is not a folder")
    if path.suffix == ".json":
        return read_report(path)
    return TensorFile(path, Header)


def signed_by(opened: Artifact, *, signers: Collection[PublicKey] = ()) -> tuple[PublicKey, ...]:
    """Whose good signatures an artifact has that `open_any` opened; only packages and transcripts are signed.

    Args:
        opened: the artifact.
        signers: a transcript must be signed by one of them; without any, by nobody.

    Raises:
        InputError, SignatureError, SignerError: as `read_transcript_signatures` and `check_signers`.
    """
    if isinstance(opened, FolderArtifact):
        return opened.signed_by
    if not isinstance(opened.header, TranscriptHeader):
        return ()
    found = read_transcript_signatures(opened.path, opened.sha256)
    check_signers(found, signers, source=str(opened.path), scheme=TRANSCRIPT)
    return found
