"""What an owner has released of its clients: every master with noise for whole clients, in one file over all rounds.

A file of the owner's, one canonical JSON object a line:

    {"about":"round","clip_norm":0.5,"expected_clients":200,"federation":"<sha256>","master":"<sha256>",...}

A line is on disk before the master that it is about has its name, so a crash in between leaves a line about a master
that never was; it counts. All lines count together, of whatever federation: a client may be in several. A last line
without an end that is no JSON was cut short before its master could be seen: it does not count.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from fedlpp_cli import canonical
from fedlpp_cli.artifact.ledger_file import append, locked
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import fsync_folder
from fedlpp_cli.errors import ArtifactError, InputError, OutputError
from fedlpp_cli.privacy.accountant import Spending
from fedlpp_cli.records.record import Count, Digest, PositiveFloat, PositiveInt, Record, read_record, to_plain

_MAX_BYTES: Final = 2**26
_MAX_LINE_BYTES: Final = 2**14
_HINT: Final = "--privacy-ledger FILE"


class RoundCharge(Record, frozen=True, kw_only=True, tag_field="about", tag="round"):
    """One master. `round` is its number, `noise_multiplier` that of all that its round tells."""

    federation: Digest
    round: Count
    master: Digest
    noise_multiplier: PositiveFloat
    sampling_rate: Annotated[float, Meta(gt=0, le=1)]
    clip_norm: PositiveFloat
    expected_clients: PositiveInt

    @property
    def spending(self) -> Spending:
        """What the accountant needs of it."""
        return Spending(self.noise_multiplier, self.sampling_rate, 1)


def read_charges(path: Path) -> tuple[RoundCharge, ...]:
    """All that has been charged; nothing where there is no file.

    Raises:
        ArtifactError: a damaged line.
        InputError: no regular file.
    """
    return _parse(read_regular(path, _MAX_BYTES + 1), path)[0] if os.path.lexists(path) else ()


def record_charge(path: Path, charge: RoundCharge) -> tuple[RoundCharge, ...]:
    """Charge a master; one that is in the file already is charged once. When this returns it is on disk.

    Returns:
        All charges, this one included. Of two processes the second sees the first's.

    Raises:
        ArtifactError: the ledger is damaged.
        InputError, OutputError: it is no regular file, or cannot be locked or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as descriptor:
            data = os.pread(descriptor, _MAX_BYTES + 1, 0)
            known, size = _parse(data, path)
            new: Sequence[RoundCharge] = [] if any(one.master == charge.master for one in known) else [charge]
            os.ftruncate(descriptor, size)
            start = b"\n" if new and size and not data[:size].endswith(b"\n") else b""
            append(descriptor, start + b"".join(canonical.encode(to_plain(one)) + b"\n" for one in new), size)
            fsync_folder(path.parent)
            return (*known, *new)
    except InputError as error:
        error.hint = _HINT
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint=_HINT) from None


def _parse(data: bytes, path: Path) -> tuple[tuple[RoundCharge, ...], int]:
    """What the file says, and how many of its bytes say it."""
    if len(data) > _MAX_BYTES:
        raise ArtifactError(f"{path}: a ledger of more than {_MAX_BYTES} bytes is not read", hint=_HINT)
    *lines, last = data.split(b"\n")
    size = len(data)
    if last:
        try:
            canonical.decode_object(last, source=str(path), max_bytes=_MAX_LINE_BYTES)
            lines.append(last)
        except ArtifactError:
            size -= len(last)
    return tuple(_parse_line(line, number, path) for number, line in enumerate(lines, 1) if line), size


def _parse_line(line: bytes, number: int, path: Path) -> RoundCharge:
    source = f"{path}: line {number}"
    raw = canonical.decode_object(line, source=source, max_bytes=_MAX_LINE_BYTES)
    if raw.get("about") != "round":
        raise ArtifactError(f"{source}: about is {raw.get('about')!r:.80}, round is needed", hint=_HINT)
    return read_record(raw, RoundCharge, source=source, error=ArtifactError)
