"""Where the artifacts of a federation lie when one machine, or one shared folder, holds them all.

    <run>/base/                              a private base as clients see it
    <run>/releases.jsonl                     owner only: the release ledger
    <run>/attack.json                        only of a simulation with attackers: which ones
    <run>/round-0000/master.safetensors      owner only
    <run>/round-0000/proxy.safetensors
    <run>/round-0000/package/
    <run>/round-0000/proxies/<client>.safetensors   in place of those two,
    <run>/round-0000/packages/<client>/      where masks hide other rows from each client
    <run>/round-0000/updates/<client>.safetensors
    <run>/round-0000/states/<client>.safetensors   the client's alone
    <run>/round-0000/reference.safetensors   the owner's own update, for rules that compare with one
    <run>/round-0001/master.safetensors      made from round-0000
    <run>/round-0001/master.report.json      how

There is no file that says which round is the newest: the files themselves do.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.errors import InputError

_ROUND: Final = re.compile(r"round-([0-9]{4}|[1-9][0-9]{4,})")
MASTER: Final = "master.safetensors"
REPORT: Final = "master.report.json"
PROXY: Final = "proxy.safetensors"
PACKAGE: Final = "package"
PROXIES: Final = "proxies"
PACKAGES: Final = "packages"
UPDATES: Final = "updates"
RELEASES: Final = "releases.jsonl"
STATES: Final = "states"
REFERENCE: Final = "reference.safetensors"
ATTACK: Final = "attack.json"
SUFFIX: Final = ".safetensors"


@dataclass(frozen=True, slots=True)
class RoundFolder:
    """What lies in one round's folder; None for what is not there."""

    number: int
    path: Path
    master: Path | None
    report: Path | None
    proxy: Path | None
    package: Path | None
    updates: dict[str, Path]
    states: dict[str, Path]
    reference: Path | None
    proxies: dict[str, Path]
    packages: dict[str, Path]

    @property
    def some_package(self) -> Path | None:
        """That of all clients, or of the first."""
        return self.package or next(iter(self.packages.values()), None)


@dataclass(frozen=True, slots=True)
class RoundPaths:
    """Where the artifacts of one round go, whether they are there or not."""

    run: Path
    number: int

    @property
    def folder(self) -> Path:
        """The round's."""
        return self.run / round_name(self.number)

    @property
    def master(self) -> Path:
        """What the round starts from; the owner's."""
        return self.folder / MASTER

    @property
    def proxy(self) -> Path:
        """What clients may see of it."""
        return self.folder / PROXY

    @property
    def package(self) -> Path:
        """What clients get."""
        return self.folder / PACKAGE

    def proxy_for(self, client: str | None) -> Path:
        """What that client may see of it; None where all see the same."""
        return self.proxy if client is None else self.folder / PROXIES / f"{client}{SUFFIX}"

    def package_for(self, client: str | None) -> Path:
        """What that client gets; None where all get the same."""
        return self.package if client is None else self.folder / PACKAGES / client

    def update(self, client: str) -> Path:
        """What a client sends back."""
        return self.folder / UPDATES / f"{client}{SUFFIX}"

    @property
    def reference(self) -> Path:
        """The owner's own update."""
        return self.folder / REFERENCE

    def state(self, client: str) -> Path:
        """What a client keeps."""
        return self.folder / STATES / f"{client}{SUFFIX}"


def round_name(number: int) -> str:
    """The folder name of a round."""
    return f"round-{number:04d}"


def report_beside(master: Path) -> Path:
    """Where the report about a master lies."""
    return master.with_suffix(".report.json")


def is_run(path: Path) -> bool:
    """Whether a folder holds rounds."""
    return path.is_dir() and bool(_rounds(path))


def scan_run(run: Path) -> list[RoundFolder]:
    """The rounds in a run's folder, in order.

    Raises:
        InputError: the folder is missing or has no round.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    rounds = [_scan_round(number, path) for number, path in sorted(_rounds(run))]
    if not rounds:
        raise InputError(f"{run}: no {round_name(0)} in it", hint="simulate and make federate make run folders")
    return rounds


def _rounds(run: Path) -> list[tuple[int, Path]]:
    numbered = [(int(match[1]), path) for path in run.iterdir() if (match := _ROUND.fullmatch(path.name))]
    return [(number, path) for number, path in numbered if path.is_dir()]


def _scan_round(number: int, path: Path) -> RoundFolder:
    return RoundFolder(
        number,
        path,
        master=_if_there(path / MASTER),
        report=_if_there(path / REPORT),
        proxy=_if_there(path / PROXY),
        package=path / PACKAGE if (path / PACKAGE / MANIFEST).is_file() else None,
        updates=_by_client(path / UPDATES),
        states=_by_client(path / STATES),
        reference=_if_there(path / REFERENCE),
        proxies=_by_client(path / PROXIES),
        packages={one.parent.name: one.parent for one in sorted((path / PACKAGES).glob(f"[!.]*/{MANIFEST}"))},
    )


def _by_client(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob(f"[!.]*{SUFFIX}"))
    return {file.name.removesuffix(SUFFIX): file for file in files if file.is_file()}


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
