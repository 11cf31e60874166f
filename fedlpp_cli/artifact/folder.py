"""Artifacts that are a folder: a package, or a private base. `manifest.json` is their header and lists every file.

The folder's identity is the sha256 of the manifest. Opening one checks that it holds exactly the listed files, that
they are plain files (no links, pipes, devices), and that size and sha256 are right; only then is anything parsed. A
package may have one more file: the signatures over its manifest, which are checked before the manifest is parsed.
"""

import os
import shutil
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from fedlpp_cli.artifact.digest import sha256_of_bytes, sha256_of_file
from fedlpp_cli.artifact.key_files import SigningKey
from fedlpp_cli.artifact.regular import input_errors, read_regular
from fedlpp_cli.artifact.signatures import SIGNATURES, check_signers, read_signatures, sign_manifest
from fedlpp_cli.artifact.whole import output_errors, whole_folder
from fedlpp_cli.errors import ArtifactError, DigestError, InputError, OutputError
from fedlpp_cli.records.headers import (
    MAX_HEADER_BYTES,
    BaseHeader,
    FileEntry,
    PackageHeader,
    check_kind,
    decode_header,
    encode_header,
)
from fedlpp_cli.records.keys import PublicKey
from fedlpp_cli.records.record import FileName

MANIFEST: Final = "manifest.json"
PROXY: Final = "proxy.safetensors"
CARD: Final = "README.md"
BASE: Final = "base"
# What huggingface_hub keeps beside its downloads; no part of an artifact.
_HUB_NOTES: Final = ".cache/huggingface"

FolderHeaderT = TypeVar("FolderHeaderT", PackageHeader, BaseHeader)


@dataclass(frozen=True, slots=True)
class FolderArtifact(Generic[FolderHeaderT]):
    """A verified folder. `signed_by`: whose good signatures lie beside the manifest."""

    path: Path
    header: FolderHeaderT
    raw_header: bytes
    sha256: str
    signed_by: tuple[PublicKey, ...] = ()


def open_folder(
    path: Path, kind: type[FolderHeaderT], *, signers: Collection[PublicKey] = ()
) -> FolderArtifact[FolderHeaderT]:
    """Open and verify.

    Args:
        path: the folder.
        kind: the class of its header.
        signers: one of them must have signed it; without any, nobody has to.

    Raises:
        InputError: missing or unreadable.
        SignatureError, SignerError: as `read_signatures` and `check_signers`.
        ArtifactError: a file too many, too few, or not plain; a manifest that is not sound.
        DigestError: a file that is not what the manifest says.
        LineageError: a sound folder of another kind.
    """
    raw = read_manifest(path)
    signed_by = read_signatures(path, raw)
    check_signers(signed_by, signers, source=str(path))
    header = check_kind(decode_header(raw, source=str(path / MANIFEST)), kind, source=str(path))
    return check_folder(path, raw, header, signed_by)


def check_folder(
    path: Path, raw: bytes, header: FolderHeaderT, signed_by: tuple[PublicKey, ...]
) -> FolderArtifact[FolderHeaderT]:
    """The folder whose manifest has these bytes, say this, and are signed by these keys; its files verified.

    Raises as `open_folder`.
    """
    source = str(path / MANIFEST)
    listed = {entry.name: entry for entry in header.files}
    if len(listed) != len(header.files) or len({name.casefold() for name in listed}) != len(listed):
        raise ArtifactError(f"{source}: a file is listed twice")
    unlisted = {MANIFEST, _HUB_NOTES} | ({SIGNATURES} if header.kind == "package" else set())
    _check_file_set(path, set(listed), unlisted)
    for name, entry in listed.items():
        _check_file(path / name, entry)
    return FolderArtifact(path, header, raw, sha256_of_bytes(raw), signed_by)


def read_manifest(path: Path) -> bytes:
    """The bytes of a folder's manifest, at most as many as a header may have.

    Raises:
        InputError: missing, unreadable, or not a plain file.
    """
    if not os.path.lexists(path / MANIFEST):
        raise InputError(f"{path}: no package or base artifact lies there (no {MANIFEST})")
    return read_regular(path / MANIFEST, MAX_HEADER_BYTES + 1, follow=False)


def write_folder(
    target: Path,
    contents: Mapping[str, bytes | Path],
    header: Callable[[tuple[FileEntry, ...]], PackageHeader | BaseHeader],
    *,
    sign: Sequence[SigningKey] = (),
    force: bool = False,
) -> str:
    """Write a folder that appears whole or not at all; the sha256 of its manifest.

    Args:
        target: the folder.
        contents: file name to bytes, or to a file that is copied.
        header: makes the manifest when the files are known.
        sign: keys that sign the manifest.
        force: replace an existing folder.

    Raises:
        OutputExistsError, OutputError: as `whole_folder`.
        ArtifactError: a manifest that nobody would read.
        ValueError: a name that no artifact may have.
    """
    with whole_folder(target, force=force) as draft:
        return fill_folder(draft, contents, header, target=target, sign=sign)


def fill_folder(
    draft: Path,
    contents: Mapping[str, bytes | Path],
    header: Callable[[tuple[FileEntry, ...]], PackageHeader | BaseHeader],
    *,
    target: Path,
    sign: Sequence[SigningKey] = (),
) -> str:
    """Put files and the manifest into a draft of `target`, whose files it then lists; the sha256 of the manifest.

    Raises as `write_folder`. A path that lies in the draft already stays where it is.
    """
    if not {MANIFEST, SIGNATURES}.isdisjoint(contents):
        raise ValueError(f"{MANIFEST} and {SIGNATURES} are written here")
    msgspec.convert(list(contents), list[FileName])
    entries = []
    for name, content in sorted(contents.items()):
        place = draft / name
        with output_errors(target):
            place.parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                place.write_bytes(content)
            elif content != place:
                _copy(content, place)
        entries.append(FileEntry(name=name, size=place.stat().st_size, sha256=sha256_of_file(place)))
    raw = encode_header(header(tuple(entries)))
    with output_errors(target):
        (draft / MANIFEST).write_bytes(raw)
        if sign:
            (draft / SIGNATURES).write_bytes(sign_manifest(raw, sign))
    return sha256_of_bytes(raw)


def _copy(source: Path, place: Path) -> None:
    try:
        shutil.copyfile(source, place)
    except FileNotFoundError:
        raise OutputError(f"{source}: vanished while it was copied") from None


def _check_file_set(path: Path, listed: set[str], unlisted: set[str]) -> None:
    with input_errors(path):
        found = _names_in(path) - unlisted
    if found != listed:
        name = min(found ^ listed)
        problem = "is not listed in the manifest" if name in found else "is listed in the manifest, but missing"
        raise ArtifactError(f"{path}: {name} {problem}")


def _names_in(path: Path) -> set[str]:
    """What lies in the folder and in the folders in it. No listed file lies deeper, so nothing deeper is looked at."""
    names: set[str] = set()
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            names |= {f"{child.name}/{grandchild.name}" for grandchild in child.iterdir()}
        else:
            names.add(child.name)
    return names


def _check_file(path: Path, entry: FileEntry) -> None:
    with input_errors(path):
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path}: not a plain file")
    if status.st_size != entry.size:
        raise DigestError(f"{path}: {status.st_size} bytes, the manifest says {entry.size}")
    found = sha256_of_file(path, follow=False)
    if found != entry.sha256:
        raise DigestError(f"{path}: sha256 is {found[:12]}…, the manifest says {entry.sha256[:12]}…")
