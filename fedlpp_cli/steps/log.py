"""`log`: the chain of a federation, round by round. Loads no torch."""

from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_bytes
from fedlpp_cli.artifact.folder import PROXY, read_manifest
from fedlpp_cli.artifact.run_folder import RoundFolder, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader, UpdateHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import Bits
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.rounding import mean_of
from fedlpp_cli.steps.inputs import RefLike


class LogEntry(Record, frozen=True, kw_only=True):
    """One round. `bytes_down`: the package's size, to each client; `bytes_up`: one update's size; both the largest.

    `groups`: those of tensors with another width than `bits`. `loss_first` and `loss_last` are means over clients of
    what they report. None stands for what is not there; `package` for several, too.
    """

    round: int
    master: str | None
    package: str | None
    bits: Bits | None
    groups: dict[str, Bits]
    clients: tuple[str, ...]
    n_examples: int
    loss_first: float | None
    loss_last: float | None
    bytes_down: int | None
    bytes_up: int | None
    update_rule: int | None


class LogResult(Record, frozen=True, kw_only=True):
    """The chain, oldest round first; every master that is there names the one before it, and all are of one method."""

    path: str
    federation: str | None
    method: str | None
    rounds: tuple[LogEntry, ...]


def log(run: RefLike) -> LogResult:
    """Tell the story of a run folder, checking that each master follows from the one before.

    Args:
        run: folder or Hub address that holds `round-0000` and so on.

    Raises:
        InputError: no such folder, or no round in it.
        ArtifactError: a damaged artifact.
        LineageError: a master that does not follow from the one before.
    """
    entries: list[LogEntry] = []
    federation: str | None = None
    method: str | None = None
    for folder in scan_run(store.fetch(parse_ref(run), skip=("*/base/*",))):
        entry, stated, own = _entry(folder, entries[-1] if entries else None)
        if federation is not None and stated is not None and stated != federation:
            raise LineageError(
                f"{folder.path}: of federation {stated[:12]}…, the rounds before are of {federation[:12]}…"
            )
        if method is not None and own is not None and own != method:
            raise LineageError(f"{folder.path}: of method {own!r}, the rounds before are of {method!r}")
        federation, method = federation or stated, method or own
        entries.append(entry)
    return LogResult(path=str(run), federation=federation, method=method, rounds=tuple(entries))


def _entry(folder: RoundFolder, before: LogEntry | None) -> tuple[LogEntry, str | None, str | None]:
    """The round, and which federation and method its artifacts say they are of."""
    master = federation = method = quantize = rule = bytes_down = None
    if folder.master is not None:
        with TensorFile(folder.master, MasterHeader) as file:
            master, federation, method = file.sha256, file.header.federation or file.sha256, file.header.method
            if before is not None and before.master is not None and file.header.parent("master") != before.master:
                raise LineageError(f"{folder.master}: was not made from the master of round {before.round}")
            rule = file.header.spec.aggregate.update_rule if file.header.spec.aggregate else None
    if folder.some_package is not None:
        with TensorFile(folder.some_package / PROXY, ProxyHeader) as proxy:
            quantize = proxy.header.spec.quantize
            federation, method = federation or proxy.header.federation, method or proxy.header.method
        packages = [folder.package] if folder.package is not None else list(folder.packages.values())
        bytes_down = max(_size(package) for package in packages)
    updates = []
    for path in folder.updates.values():
        with TensorFile(path, UpdateHeader) as update:
            updates.append((update.header.spec, update.n_bytes))
    metrics = [spec.metrics for spec, _ in updates]
    entry = LogEntry(
        round=folder.number,
        master=master,
        package=None if folder.package is None else sha256_of_bytes(read_manifest(folder.package)),
        bits=None if quantize is None else quantize.bits,
        groups={} if quantize is None else quantize.groups,
        clients=tuple(sorted(spec.client for spec, _ in updates)),
        n_examples=sum(one.n_examples for one in metrics),
        loss_first=mean_of(one.loss_first for one in metrics),
        loss_last=mean_of(one.loss_last for one in metrics),
        bytes_down=bytes_down,
        bytes_up=max((n_bytes for _, n_bytes in updates), default=None),
        update_rule=rule,
    )
    return entry, federation, method


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
