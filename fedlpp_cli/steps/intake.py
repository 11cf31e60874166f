"""Which of the updates that came in are used: everything suspicious is decided here, before any arithmetic."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.aggregation.gates import check_duplicates, check_lineage, refuse_all
from fedlpp_cli.aggregation.norms import update_norm
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError, FedlppError, GateError, LineageError, QuorumError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import MasterHeader, UpdateHeader
from fedlpp_cli.records.reports import MAX_REASON, RejectedUpdate
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of
from fedlpp_cli.steps.packages import OpenPackage

Update = TensorFile[UpdateHeader]
# An update that is refused is read for its sha256 only up to this many times the master's size.
_MAX_DIGEST = 4


class Rejection(RejectedUpdate, frozen=True, kw_only=True):
    """An update that was not used, and where it lies: the owner's to know, not the report's to tell."""

    path: str


@dataclass(frozen=True, slots=True)
class Intake:
    """Sound updates in the order of their sha256, the norms that they have, and what was left out."""

    updates: tuple[Update, ...]
    norms: tuple[float, ...]
    rejected: tuple[Rejection, ...]


@dataclass(slots=True)
class _Candidate:
    path: str
    update: Update | None = None
    norm: float = 0.0
    problem: FedlppError | None = None


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
        QuorumError: fewer updates than `min_clients`, and nothing wrong with them.
        InputError, HubError: an update that is missing.
    """
    candidates = [_open(files, parse_ref(ref)) for ref in refs]
    manifests = {package.folder.sha256: package.folder.header for package in sent}
    shapes = components_of(master)

    def check(candidate: _Candidate) -> None:
        try:
            if candidate.update is not None:
                package = check_lineage(candidate.update, master, federation_of(master), manifests)
                with candidate.update.hashing():
                    candidate.norm = update_norm(candidate.update, shapes, package.spec.train.max_update_norm)
                _ = candidate.update.sha256
        except (ArtifactError, LineageError, GateError) as problem:
            candidate.problem = problem

    with ThreadPoolExecutor(threads) as pool:
        for number, _ in enumerate(pool.map(check, candidates), start=1):
            on_progress("checking updates", number, len(candidates))
    return _choose(candidates, master.n_bytes, min_clients)


def take_reference(
    files: ExitStack,
    ref: RefLike,
    master: TensorFile[MasterHeader],
    sent: Sequence[OpenPackage],
    updates: Sequence[Update],
) -> tuple[Update, float]:
    """The owner's own update and its norm; anything wrong with it stops the round.

    Raises:
        FedlppError: as `take_in` without a quorum.
        DuplicateUpdateError: it is from one of the clients of `updates`.
    """
    intake = take_in(files, [ref], master, sent, min_clients=None, threads=1, on_progress=silent)
    check_duplicates([*updates, *intake.updates])
    return intake.updates[0], intake.norms[0]


def _open(files: ExitStack, ref: Ref) -> _Candidate:
    path = store.fetch(ref)
    candidate = _Candidate(str(path))
    try:
        candidate.update = files.enter_context(TensorFile(path, UpdateHeader))
    except (ArtifactError, LineageError) as problem:
        candidate.problem = problem
    return candidate


def _choose(candidates: Sequence[_Candidate], master_bytes: int, min_clients: int | None) -> Intake:
    problems = [candidate.problem for candidate in candidates if candidate.problem is not None]
    sound = [(one.update, one.norm) for one in candidates if one.problem is None and one.update is not None]
    if min_clients is None or len(sound) < min_clients:
        refuse_all(problems, len(candidates))
    if min_clients is not None and len(sound) < min_clients:
        raise QuorumError(f"{len(sound)} sound updates, --min-clients {min_clients} asks for more")
    check_duplicates([update for update, _ in sound])
    sound.sort(key=lambda pair: pair[0].sha256)
    rejected = [_reject(one, one.problem, master_bytes) for one in candidates if one.problem is not None]
    rejected.sort(key=lambda one: (one.update or "", one.reason))
    return Intake(tuple(update for update, _ in sound), tuple(norm for _, norm in sound), tuple(rejected))


def _reject(candidate: _Candidate, problem: FedlppError, master_bytes: int) -> Rejection:
    update = candidate.update
    is_small = update is not None and update.n_bytes <= _MAX_DIGEST * master_bytes
    return Rejection(
        path=candidate.path,
        client=update.header.spec.client if update is not None else None,
        update=update.sha256 if update is not None and is_small else None,
        code=problem.code,
        reason=str(problem).removeprefix(f"{candidate.path}: ").replace(candidate.path, "it")[:MAX_REASON],
    )
