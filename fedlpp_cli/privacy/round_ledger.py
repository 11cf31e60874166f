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
from typing import Annotated, Any, Final

from msgspec import Meta

from fedlpp_cli.artifact.ledger_file import MAX_BYTES, append_records, locked, whole_lines
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import fsync_folder
from fedlpp_cli.errors import ArtifactError, InputError, OutputError
from fedlpp_cli.privacy.accountant import Spending
from fedlpp_cli.records.record import Count, Digest, PositiveFloat, PositiveInt, Record, read_record

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
    return _parse(read_regular(path, MAX_BYTES + 1), path)[0] if os.path.lexists(path) else ()


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
            data = os.pread(descriptor, MAX_BYTES + 1, 0)
            known, size = _parse(data, path)
            new: Sequence[RoundCharge] = [] if any(one.master == charge.master for one in known) else [charge]
            append_records(descriptor, new, data, size)
            fsync_folder(path.parent)
            return (*known, *new)
    except InputError as error:
        error.hint = _HINT
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint=_HINT) from None


def _parse(data: bytes, path: Path) -> tuple[tuple[RoundCharge, ...], int]:
    """What the file says, and how many of its bytes say it."""
    lines, size = whole_lines(data, path, hint=_HINT)
    return tuple(_read(raw, source) for source, raw in lines), size


def _read(raw: dict[str, Any], source: str) -> RoundCharge:
    if raw.get("about") != "round":
        raise ArtifactError(f"{source}: about is {raw.get('about')!r:.80}, round is needed", hint=_HINT)
    return read_record(raw, RoundCharge, source=source, error=ArtifactError)
