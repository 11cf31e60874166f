"""What an owner has released: one rounding of each master, one quantized base of each federation with a private one.

Two roundings of the same weights tell more than one: the intervals of two formats intersect, the mean of many draws
has almost no error. So `pack` notes what it is about to release, and refuses another image of what was released before.
Proxies of several ranks are no second rounding: `quantize` makes all of them from one (`adapters/ranks.py`), so
each rank may go out once, all with the same spec. Neither are those of several clients with masks of equal shares: all
are parts of one rounding (`adapters/masks.py`). A proxy without masks shows what they hide, and is refused beside them.

The ledger is a file of the owner's, one canonical JSON object a line:

    {"about":"adapter","client":null,"mask":null,"master":"<sha256>","proxy":"<sha256>","quantize":{...},"rank":8}
    {"about":"base","base":"<sha256>","federation":"<sha256>"}

A line is on disk before the package that it is about has its name. A crash in between leaves a line about a package
that never was; releasing the same again is no second release and adds no line.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fedlpp_cli import canonical
from fedlpp_cli.artifact.ledger_file import append, locked
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import fsync_folder
from fedlpp_cli.errors import ArtifactError, FedlppError, OutputError, SecondReleaseError, UsageError
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Digest, PartyName, PositiveInt, Record, read_record, to_plain
from fedlpp_cli.records.specs import QuantSpec

_MAX_BYTES: Final = 64 * 2**20
_MAX_LINE_BYTES: Final = 100_000  # 256 groups of tensors with the longest names take 70,000
_ELSEWHERE: Final = "--ledger FILE, or FEDLPP_STATE, puts the release ledger elsewhere"


class AdapterRelease(Record, frozen=True, kw_only=True, tag_field="about", tag="adapter"):
    """A master's adapter goes out as a proxy. `rank` None: an older line, which does not say.

    `mask` and `client`: as in the proxy's header.
    """

    master: Digest
    proxy: Digest
    quantize: QuantSpec
    rank: PositiveInt | None = None
    mask: MaskSpec | None = None
    client: PartyName | None = None

    @property
    def secret(self) -> tuple[str, str]:
        """What goes out once, and its digest."""
        return "master", self.master

    @property
    def image(self) -> tuple[str, str]:
        """What it goes out as, and its digest."""
        return "proxy", self.proxy

    def goes_with(self, other: "Release") -> bool:
        """Whether both are made from one rounding: the same one, with different ranks, or other clients' masks."""
        return (
            isinstance(other, AdapterRelease)
            and (self.quantize, self.mask) == (other.quantize, other.mask)
            and None not in (self.rank, other.rank)
            and (self.rank != other.rank if self.client is None else self.client != other.client)
        )


class BaseRelease(Record, frozen=True, kw_only=True, tag_field="about", tag="base"):
    """A federation's private base goes out as a quantized copy."""

    federation: Digest
    base: Digest

    @property
    def secret(self) -> tuple[str, str]:
        """What goes out once, and its digest."""
        return "the private base of federation", self.federation

    @property
    def image(self) -> tuple[str, str]:
        """What it goes out as, and its digest."""
        return "base artifact", self.base

    def goes_with(self, _: "Release") -> bool:
        """Whether both are made from one rounding: no two copies are."""
        return False


Release = AdapterRelease | BaseRelease
_KINDS: Final[dict[object, type[AdapterRelease] | type[BaseRelease]]] = {
    "adapter": AdapterRelease,
    "base": BaseRelease,
}


def default_ledger(federation: str) -> Path:
    """Where a federation's ledger lies unless told otherwise: one file in the user's state folder.

    Raises:
        UsageError: the user has no home folder.
    """
    state = _state_folder()
    if state is None:
        raise UsageError("no folder for the release ledger: this user has no home", hint=_ELSEWHERE)
    return state / "releases" / f"{federation}.jsonl"


def check_releases(path: Path, releases: Sequence[Release]) -> None:
    """Say whether `record_releases` would refuse. Writes nothing.

    Raises:
        SecondReleaseError, ArtifactError, InputError: as `record_releases`.
    """
    if os.path.lexists(path):
        _new_among(releases, _parse(read_regular(path, _MAX_BYTES + 1), path), path)


def record_releases(path: Path, releases: Sequence[Release]) -> None:
    """Note what is about to go out. When this returns, it is on disk. Of two processes the second sees the first's.

    Raises:
        SecondReleaseError: another image of the same weights is in the ledger.
        ArtifactError: the ledger is damaged.
        InputError: no regular file.
        OutputError: it cannot be locked or written.
    """
    try:
        _make_folder(path.parent)
        with locked(path) as descriptor:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, min(size, _MAX_BYTES + 1), 0)
            lines = b"".join(
                canonical.encode(to_plain(release)) + b"\n"
                for release in _new_among(releases, _parse(data, path), path)
            )
            is_open = data != b"" and not data.endswith(b"\n")  # by somebody's editor
            append(descriptor, b"\n" * (is_open and lines != b"") + lines, size)
            fsync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint=_ELSEWHERE) from None


def _new_among(releases: Sequence[Release], known: Sequence[tuple[int, Release]], path: Path) -> list[Release]:
    """Those that are not in the ledger yet.

    Raises:
        SecondReleaseError: another image is.
    """
    new = []
    for release in releases:
        before = [(number, one) for number, one in known if one.secret == release.secret]
        if any(one.image == release.image for _, one in before):
            continue
        before = [(number, one) for number, one in before if not release.goes_with(one)]
        if before:
            number, one = before[0]
            (what, secret), (kind, found), (_, wanted) = release.secret, one.image, release.image
            raise SecondReleaseError(
                f"{what} {secret[:12]}… was released as {kind} {found[:12]}…, this is {kind} {wanted[:12]}…: "
                "two roundings of the same weights tell more than one",
                hint=f"pack {kind} {found[:12]}… again; if it never left this machine, remove line {number} of {path}",
            )
        new.append(release)
    return new


def _parse(data: bytes, path: Path) -> list[tuple[int, Release]]:
    """Number and content of each line that is not empty."""
    if len(data) > _MAX_BYTES:
        raise ArtifactError(f"{path}: a release ledger of more than {_MAX_BYTES} bytes is not read", hint=_ELSEWHERE)
    try:
        return [(number, _parse_line(line, number, path)) for number, line in enumerate(data.split(b"\n"), 1) if line]
    except FedlppError as error:
        # What cannot be read cannot be ruled out, so nothing is released until somebody has looked.
        error.hint = "restore the release ledger from a copy; a last line cut short was never released: remove it"
        raise


def _parse_line(line: bytes, number: int, path: Path) -> Release:
    source = f"{path}: line {number}"
    raw = canonical.decode_object(line, source=source, max_bytes=_MAX_LINE_BYTES)
    kind = _KINDS.get(str(raw.get("about")))
    if kind is None:
        raise ArtifactError(
            f"{source}: about is {raw.get('about')!r:.80}, one of {', '.join(map(str, _KINDS))} is needed"
        )
    return read_record(raw, kind, source=source, error=ArtifactError)


def _make_folder(folder: Path) -> None:
    """Missing folders, in the user's state folder with mode 0700."""
    state = _state_folder()
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        is_private = state is not None and one.is_relative_to(state)
        one.mkdir(mode=0o700 if is_private else 0o777, exist_ok=True)
        fsync_folder(one.parent)


def _state_folder() -> Path | None:
    """`$FEDLPP_STATE`, else `fedlpp` in the user's state folder; None for a user without a home."""
    own, users = os.environ.get("FEDLPP_STATE"), os.environ.get("XDG_STATE_HOME")
    if own or users:
        return Path(own) if own else Path(users or "") / "fedlpp"
    try:
        return Path.home() / ".local" / "state" / "fedlpp"
    except RuntimeError:
        return None
