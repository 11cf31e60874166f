"""What the artifacts of a run, and reports about it, tell: headers only, no tensor is read but to name the masters."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import PROXY
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.artifact.run_folder import MASTER, REPORT, RoundFolder, is_run, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError, InputError, LineageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import MAX_HEADER_BYTES, MasterHeader, ProxyHeader, UpdateHeader
from fedlpp_cli.records.reports import AggregateReport
from fedlpp_cli.records.specs import ModelSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.reporting.story import Given, RoundTold, Story
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.log import LogEntry, log

_REPORTS: Final = "reports"
_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9 _.-]{0,62})=(.+)", re.DOTALL)
_MAX_FILES: Final = 10_000


def read_story(sources: Sequence[RefLike], *, on_progress: Progress = silent) -> Story:
    """Read everything, and see that it belongs to one federation.

    Args:
        sources: at most one run folder, and report files; "name=reference" gives a report a name.
        on_progress: told what is going on.

    Raises:
        UsageError: two runs.
        InputError, ArtifactError: a file that is missing, or no sound artifact.
        LineageError: several federations, or a master that does not follow from the one before.
    """
    run: Path | None = None
    given: list[Given] = []
    for source in sources:
        name, ref = _split_name(source)
        path = store.fetch(parse_ref(ref), skip=("*/base/*",))
        if not path.is_dir():
            given.append(_read(path, name or path.stem))
        elif run is not None:
            raise UsageError(f"{path}: a page is about one run, and {run} is one already")
        else:
            run = path
    rounds: tuple[RoundTold, ...] = ()
    federation, model = None, None
    if run is not None:
        if not is_run(run):
            raise InputError(
                f"{run}: no run folder, there is no round-0000 in it", hint="a run folder, or report files"
            )
        on_progress("reading the run", 0, 0)
        told = log(run)
        folders = scan_run(run)
        federation, model = told.federation, _model(folders)
        rounds = _rounds(folders, told.rounds, federation)
        given = [*_found_in(run), *given]
    reports = _without_repeats(given)
    return Story(_one_federation(reports, federation, run), model, rounds, reports)


def _read(path: Path, name: str) -> Given:
    """A report.

    Raises:
        InputError: missing or unreadable.
        ArtifactError, LineageError: no report, a damaged one, or JSON that is something else.
    """
    if read_regular(path, 1) != b"{":
        raise ArtifactError(f"{path}: no report, which is JSON", hint="a run folder, or what --out and --report wrote")
    file = read_report(path)
    return Given(name, file.header, file.sha256)


def _split_name(source: RefLike) -> tuple[str, RefLike]:
    match = _NAMED.fullmatch(source) if isinstance(source, str) else None
    return ("", source) if match is None or Path(str(source)).exists() else (match[1], match[2])


def _found_in(run: Path) -> list[Given]:
    """Reports that lie in the run's folder; JSON of other kinds is passed over."""
    places = [run, run / _REPORTS, *(folder.path for folder in scan_run(run))]
    paths = [path for place in places for path in sorted(place.glob("[!.]*.json")) if path.name != REPORT]
    return [_read(path, path.stem) for path in paths[:_MAX_FILES] if _is_report(path)]


def _is_report(path: Path) -> bool:
    """Whether it says that it is one: then it has to be a sound one."""
    try:
        plain = json.loads(read_regular(path, MAX_HEADER_BYTES + 1))
    except (ValueError, RecursionError, InputError):
        return False
    return isinstance(plain, dict) and plain.get("kind") == "report"


def _without_repeats(given: Iterable[Given]) -> tuple[Given, ...]:
    """The same report counts once, under its last name: that of an argument wins over that in the run's folder."""
    by_digest: dict[str, Given] = {}
    for one in given:
        by_digest[one.sha256] = one
    return tuple(by_digest.values())


def _one_federation(reports: Sequence[Given], federation: str | None, run: Path | None) -> str | None:
    """What all of them are about. A report on models of no federation goes with any."""
    first = str(run) if federation is not None else ""
    for one in reports:
        found = one.header.federation
        if found is None:
            continue
        if federation is not None and found != federation:
            raise LineageError(
                f"{one.name}: a report on federation {found[:12]}…, {first} is of {federation[:12]}…",
                hint="a page is about one federation; make one for each",
            )
        federation, first = found, first or one.name
    return federation


def _model(folders: Sequence[RoundFolder]) -> ModelSpec | None:
    for folder in folders:
        if folder.master is not None:
            with TensorFile(folder.master, MasterHeader) as master:
                return master.header.spec.model
        if folder.package is not None:
            with TensorFile(folder.package / PROXY, ProxyHeader) as proxy:
                return proxy.header.spec.model
    return None


def _rounds(
    folders: Sequence[RoundFolder], entries: Sequence[LogEntry], federation: str | None
) -> tuple[RoundTold, ...]:
    made = {folder.number: _aggregate_report(folder, federation) for folder in folders}
    rounds = []
    for folder, entry in zip(folders, entries, strict=True):
        updates = []
        for _, path in sorted(folder.updates.items()):
            with TensorFile(path, UpdateHeader) as update:
                _check_federation(str(path), update.header.federation, federation)
                updates.append(update.header.spec)
        rounds.append(
            RoundTold(
                number=folder.number,
                master=entry.master,
                package=entry.package,
                bits=entry.bits,
                bytes_down=entry.bytes_down,
                bytes_up=entry.bytes_up,
                updates=tuple(updates),
                report=made.get(folder.number + 1),
            )
        )
    return tuple(rounds)


def _aggregate_report(folder: RoundFolder, federation: str | None) -> AggregateReport | None:
    """How the folder's master was made, from beside it.

    Raises:
        LineageError: it is about something else.
    """
    if folder.report is None:
        return None
    file = read_report(folder.report)
    if not isinstance(file.header.spec, AggregateReport) or file.header.round != folder.number:
        raise LineageError(f"{folder.report}: not the report on {MASTER} of round {folder.number}")
    _check_federation(str(folder.report), file.header.federation, federation)
    return file.header.spec


def _check_federation(source: str, found: str | None, federation: str | None) -> None:
    if federation is not None and found != federation:
        raise LineageError(f"{source}: of federation {(found or 'none')[:12]}…, the run is of {federation[:12]}…")
