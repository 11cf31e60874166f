"""Which of the updates that came in are used: everything suspicious is decided here, before any arithmetic."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from fedlpp_cli.adapters.master_tensors import components_of, master_layout
from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.aggregation.copies import find_copies
from fedlpp_cli.aggregation.gates import Sent, check_duplicates, check_lineage, refuse_all
from fedlpp_cli.aggregation.norms import update_norm
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.artifact.bounded import fetch_bounded
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes
from fedlpp_cli.errors import (
    ArtifactError,
    CopiedUpdateError,
    FedlppError,
    GateError,
    LineageError,
    QuorumError,
)
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MAX_HEADER_BYTES, MasterHeader, UpdateHeader
from fedlpp_cli.records.reports import MAX_REASON, RejectedUpdate
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of
from fedlpp_cli.steps.packages import OpenPackage

Update = TensorFile[UpdateHeader]


class Rejection(RejectedUpdate, frozen=True, kw_only=True):
    """An update that was not used, and where it lies: the owner's to know, not the report's to tell."""

    path: str


@dataclass(frozen=True, slots=True)
class Intake:
    """Sound updates in the order of their sha256, and what was left out."""

    received: tuple[Received, ...]
    rejected: tuple[Rejection, ...]


@dataclass(slots=True)
class _Candidate:
    """`reason`: the problem as the report tells it, where that is not the error's own sentence."""

    path: str
    update: Update | None = None
    received: Received | None = None
    problem: FedlppError | None = None
    reason: str | None = None


def take_in(
    files: ExitStack,
    refs: Sequence[RefLike],
    master: TensorFile[MasterHeader],
    sent: Sequence[OpenPackage],
    *,
    min_clients: int | None,
    threads: int,
    on_progress: Progress,
) -> Intake:
    """Open and check updates.

    Args:
        files: closes them in the end.
        refs: where they are; what is not there at all stops the round.
        master: the open round's.
        sent: what went out to the clients.
        min_clients: with that many sound updates the others are left out; None: all must be sound.
        threads: how many may run.
        on_progress: told what is going on.

    Raises:
        ArtifactError, LineageError, GateError: what is wrong with the updates, all of it.
        DuplicateUpdateError: two sound updates of one client, which the owner must choose from.
        CopiedUpdateError: two clients' updates with the same tensors; with a quorum all but one are left out.
        QuorumError: fewer updates than `min_clients`, and nothing wrong with them.
        InputError, HubError: an update that is missing.
    """
    max_bytes = _max_bytes(components_of(master), sent)
    candidates = [_open(files, parse_ref(ref), max_bytes) for ref in refs]
    packages = {package.folder.sha256: Sent(package.folder.header, package.proxy) for package in sent}

    def check(candidate: _Candidate) -> None:
        try:
            if candidate.update is not None:
                package = check_lineage(candidate.update, master, federation_of(master), packages)
                limit = package.manifest.spec.train.max_update_norm
                with candidate.update.hashing():
                    norm = update_norm(candidate.update, update_shapes(package.proxy.header.spec), limit)
                _ = candidate.update.sha256
                candidate.received = Received(candidate.update, package.proxy, norm)
        except (ArtifactError, LineageError, GateError) as problem:
            candidate.problem = problem

    with ThreadPoolExecutor(threads) as pool:
        for number, _ in enumerate(pool.map(check, candidates), start=1):
            on_progress("checking updates", number, len(candidates))
    _refuse_copies(candidates)
    return _choose(candidates, min_clients)


def take_reference(
    files: ExitStack,
    ref: RefLike,
    master: TensorFile[MasterHeader],
    sent: Sequence[OpenPackage],
    clients: Sequence[Received],
) -> Received:
    """The owner's own update; anything wrong with it stops the round.

    Raises:
        FedlppError: as `take_in` without a quorum.
        DuplicateUpdateError: it is from one of the clients.
        CopiedUpdateError: a client has sent it too.
    """
    own = take_in(files, [ref], master, sent, min_clients=None, threads=1, on_progress=silent).received
    check_duplicates([one.update for one in (*clients, *own)])
    for copy, original in find_copies([*clients, *own]):
        paths = f"{copy.update.path}: the same tensors as {original.update.path}"
        raise CopiedUpdateError(f"{paths}, and one is the owner's reference")
    return own[0]


def _max_bytes(shapes: Mapping[str, Shape], sent: Sequence[OpenPackage]) -> int:
    """No update of this round can have more: header, components as they were asked for, full-precision variates."""
    asked = {package.folder.header.spec.update for package in sent}
    components = max(layout_bytes(proxy_layout(shapes, spec)) for spec in asked)
    return 8 + MAX_HEADER_BYTES + components + layout_bytes(master_layout(shapes))


def _open(files: ExitStack, ref: Ref, max_bytes: int) -> _Candidate:
    candidate = _Candidate(str(ref))
    try:
        path = fetch_bounded(ref, max_bytes)
        candidate.path = str(path)
        candidate.update = files.enter_context(TensorFile(path, UpdateHeader))
    except (ArtifactError, LineageError) as problem:
        candidate.problem = problem
    return candidate


def _refuse_copies(candidates: Sequence[_Candidate]) -> None:
    """All but one of equal tensors: a copy gains no weight, and does not take the original's away."""
    sound = {one.received.update.sha256: one for one in candidates if one.received is not None}
    for copy, original in find_copies([one.received for one in sound.values() if one.received is not None]):
        update, client = original.update, original.update.header.spec.client
        refused = sound[copy.update.sha256]
        refused.problem = CopiedUpdateError(
            f"{copy.update.path}: the same tensors as {update.path}, of client {client!r}"
        )
        refused.reason = f"the same tensors as update {update.sha256[:12]}…, of client {client!r}"
        refused.received = None


def _choose(candidates: Sequence[_Candidate], min_clients: int | None) -> Intake:
    problems = [candidate.problem for candidate in candidates if candidate.problem is not None]
    sound = [one.received for one in candidates if one.received is not None]
    if min_clients is None or len(sound) < min_clients:
        refuse_all(problems, len(candidates))
    if min_clients is not None and len(sound) < min_clients:
        raise QuorumError(f"{len(sound)} sound updates, --min-clients {min_clients} asks for more")
    check_duplicates([one.update for one in sound])
    sound.sort(key=lambda one: one.update.sha256)
    rejected = [_reject(one, one.problem) for one in candidates if one.problem is not None]
    rejected.sort(key=lambda one: (one.update or "", one.reason))
    return Intake(tuple(sound), tuple(rejected))


def _reject(candidate: _Candidate, problem: FedlppError) -> Rejection:
    update = candidate.update
    reason = str(problem).removeprefix(f"{candidate.path}: ").replace(candidate.path, "it")
    return Rejection(
        path=candidate.path,
        client=None if update is None else update.header.spec.client,
        update=None if update is None else update.sha256,
        code=problem.code,
        reason=(candidate.reason or reason)[:MAX_REASON],
    )
