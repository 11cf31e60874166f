"""Reports: one canonical JSON file each."""

from dataclasses import dataclass
from pathlib import Path

from fedlpp_cli.artifact.digest import sha256_of_bytes
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.records.headers import MAX_HEADER_BYTES, ReportHeader, check_kind, decode_header, encode_header


@dataclass(frozen=True, slots=True)
class ReportFile:
    """A report that has been read."""

    path: Path
    header: ReportHeader
    raw_header: bytes
    sha256: str


def read_report(path: Path) -> ReportFile:
    """Read a report.

    Raises:
        InputError: missing or unreadable.
        ArtifactError: not a sound artifact.
        LineageError: an artifact of another kind.
    """
    raw = read_regular(path, MAX_HEADER_BYTES + 1)
    header = check_kind(decode_header(raw, source=str(path)), ReportHeader, source=str(path))
    return ReportFile(path, header, raw, sha256_of_bytes(raw))


def write_report(target: Path, header: ReportHeader, *, private: bool = False, force: bool = False) -> str:
    """Write a report that appears whole or not at all; its sha256.

    Raises:
        OutputExistsError, OutputError: as `whole_file`.
    """
    raw = encode_header(header)
    with whole_file(target, private=private, force=force) as descriptor, output_errors(target):
        write_all(descriptor, raw, 0)
    return sha256_of_bytes(raw)
