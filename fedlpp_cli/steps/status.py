"""`status`: where a federation stands, and what is missing for the open round. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import read_manifest
from fedlpp_cli.artifact.run_folder import RELEASES, RoundFolder, round_name, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import Header, PackageHeader, StateHeader, UpdateHeader, decode_header
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike


class StatusResult(Record, frozen=True, kw_only=True):
    """The open round: the newest one. `federation` is None where nothing says it. `next` is what to do now.

    `states`: clients who keep one, where this folder is a client's or one machine plays everybody.
    """

    path: str
    federation: str | None
    round: int
    n_finished: int
    has_master: bool
    has_proxy: bool
    has_package: bool
    updates: tuple[str, ...]
    missing: tuple[str, ...]
    states: tuple[str, ...]
    next: str


def status(run: RefLike, *, clients: Sequence[str] = ()) -> StatusResult:
    """Look at a run folder, the owner's or a client's.

    Args:
        run: folder or Hub address that holds `round-0000` and so on.
        clients: who should send an update.

    Raises:
        InputError: no such folder, or no round in it.
        ArtifactError: a damaged artifact in the open round.
    """
    rounds = scan_run(store.fetch(parse_ref(run), skip=("*/base/*",)))
    newest = rounds[-1]
    updates = tuple(sorted(_client_of(path, UpdateHeader) for path in newest.updates.values()))
    missing = tuple(sorted(set(clients) - set(updates)))
    return StatusResult(
        path=str(run),
        federation=_federation(newest),
        round=newest.number,
        n_finished=newest.number,
        has_master=newest.master is not None,
        has_proxy=newest.proxy is not None or bool(newest.proxies),
        has_package=newest.some_package is not None,
        updates=updates,
        missing=missing,
        states=tuple(sorted(_client_of(path, StateHeader) for path in newest.states.values())),
        next=_next(str(run).rstrip("/"), newest, updates, missing),
    )


def _client_of(path: Path, kind: type[UpdateHeader] | type[StateHeader]) -> str:
    with TensorFile(path, kind) as file:
        return file.header.spec.client


def _federation(folder: RoundFolder) -> str | None:
    package = folder.some_package
    if package is not None:
        return decode_header(read_manifest(package), source=str(package)).federation
    for path in (folder.proxy, folder.master):
        if path is not None:
            with TensorFile(path, Header) as file:
                return file.header.federation or file.sha256
    return None


def _next(run: str, folder: RoundFolder, updates: Sequence[str], missing: Sequence[str]) -> str:
    here = f"{run}/{folder.path.name}"
    package = folder.some_package
    if package is None:
        if folder.proxy is None:
            return f"fedlpp quantize {here}/master.safetensors --out {here}/proxy.safetensors"
        ledger = f" --ledger {run}/{RELEASES}" if (folder.path.parent / RELEASES).is_file() else ""
        return f"fedlpp pack {here}/proxy.safetensors{ledger} --out {here}/package"
    if missing:
        return f"waiting for {', '.join(missing)}"
    if not updates:
        sent = "package" if folder.package is not None else "packages/NAME"
        train = f"fedlpp client-train {here}/{sent} --client NAME --data DATA --out {here}/updates/NAME.safetensors"
        manifest = decode_header(read_manifest(package), source=str(package))
        asks = isinstance(manifest, PackageHeader) and manifest.spec.train.control_variates
        return f"{train} --state-out {here}/states/NAME.safetensors" if asks else train
    following = f"{run}/{round_name(folder.number + 1)}/master.safetensors"
    names = ["package"] if folder.package is not None else [f"packages/{client}" for client in updates]
    packages = " ".join(f"--package {here}/{name}" for name in names)
    return f"fedlpp aggregate {here}/master.safetensors {here}/updates/* {packages} --out {following}"
