"""`verify`: are these artifacts what they say, and do they belong together? Loads no torch."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlpp_cli.adapters.master_tensors import components_of, steps_after
from fedlpp_cli.adapters.proxy_tensors import check_proxy, check_same_layout, proxy_layout
from fedlpp_cli.adapters.residuals import check_state, residual_shapes
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.aggregation.gates import check_answers, check_scores
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE, PROXY, FolderArtifact
from fedlpp_cli.artifact.opening import open_any, signed_by
from fedlpp_cli.artifact.run_folder import is_run, scan_run
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile, layout_of
from fedlpp_cli.artifact.transcript_layout import check_transcript
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import (
    Header,
    MasterHeader,
    PackageHeader,
    ProxyHeader,
    StateHeader,
    TranscriptHeader,
    UpdateHeader,
    spell_kind,
)
from fedlpp_cli.records.keys import PublicKey, Signer, signers_of
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.packages import check_asked
from fedlpp_cli.steps.rerun import Rerun, rerun_masters

# How much older than its child a parent is: (child's kind, role) to rounds.
_ROUNDS_BACK: Final = {("master", "master"): 1, ("master", "package"): 1, ("master", "update"): 1}
_ROLES: Final = {"master", "proxy", "package", "update", "base"}
# What a first master began with: it is of another federation, or of none.
_ORIGINS: Final = {"student": "master", "transcript": "transcript"}


class Verified(Record, frozen=True, kw_only=True):
    """One sound artifact. `parents_found` of its `n_parents` were among the others and fit.

    `signers`: whose good signatures it has; only packages and transcripts are signed.
    """

    path: str
    kind: str
    sha256: str
    round: int
    federation: str
    n_parents: int
    parents_found: int
    signers: tuple[Signer, ...] = ()


class VerifyResult(Record, frozen=True, kw_only=True):
    """All artifacts that were looked at, every one sound. `missing`: parents that were not among them.

    `reruns`: what became of the aggregates that were computed again; empty where nobody asked for it.
    """

    artifacts: tuple[Verified, ...]
    missing: int
    reruns: tuple[Rerun, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """An opened artifact; `run` is the run folder that it was found in, None outside of one. `layout`: its tensors."""

    path: Path
    header: Header
    sha256: str
    run: Path | None
    layout: Layout
    signers: tuple[Signer, ...] = ()

    @property
    def federation(self) -> str:
        return self.header.federation or self.sha256


def verify(
    artifacts: Sequence[RefLike],
    *,
    complete: bool = False,
    rerun: bool = False,
    signers: Collection[PublicKey] = (),
    on_progress: Progress = silent,
) -> VerifyResult:
    """Check digests, signatures, headers, layouts, and that parents named by sha256 are the right ones, where given.

    Args:
        artifacts: artifacts of any kind, or run folders.
        complete: every parent must be among them.
        rerun: compute each aggregate again whose inputs are among them, and compare.
        signers: every package and transcript must be signed by one of them; without any, by nobody.
        on_progress: told what is going on.

    Raises:
        ArtifactError, DigestError, SignatureError: an artifact that is not sound.
        LineageError: artifacts that do not belong together, or with `complete` a parent that is missing.
        RerunError: with `rerun` an aggregate that comes out otherwise.
        SignerError: a package or a transcript that none of the signers has signed.
        UsageError: with `rerun` no aggregate whose inputs are all there; with `signers` nothing that is signed.
    """
    paths = list(_all_paths(store.fetch(parse_ref(artifact)) for artifact in artifacts))
    if not paths:
        raise UsageError("verify needs at least one artifact")
    seen: list[_Seen] = []
    for number, (run, path) in enumerate(paths, start=1):
        on_progress(f"verifying {path.name}", number, len(paths))
        seen += _open(path, run, signers)
    if signers and not any(isinstance(one.header, PackageHeader | TranscriptHeader) for one in seen):
        raise UsageError("--signer: no package and no transcript is among the artifacts, and nothing else is signed")
    by_digest = {one.sha256: one for one in seen}
    verified = tuple(_check_parents(one, by_digest, complete=complete) for one in seen)
    missing = sum(one.n_parents - one.parents_found for one in verified)
    reruns: tuple[Rerun, ...] = ()
    if rerun:
        places = {digest: one.path for digest, one in by_digest.items()}
        masters = {one.path: one.header for one in by_digest.values() if isinstance(one.header, MasterHeader)}
        reruns = rerun_masters(masters, places, on_progress=on_progress)
    return VerifyResult(artifacts=verified, missing=missing, reruns=reruns)


def _all_paths(roots: Iterable[Path]) -> Iterable[tuple[Path | None, Path]]:
    """Every artifact, with the run folder that it lies in."""
    for root in roots:
        if not is_run(root):
            yield None, root
            continue
        if (root / BASE).is_dir():
            yield root, root / BASE
        for folder in scan_run(root):
            known = (
                folder.master,
                folder.report,
                folder.proxy,
                folder.package,
                folder.reference,
                *folder.proxies.values(),
                *folder.packages.values(),
                *folder.updates.values(),
                *folder.states.values(),
            )
            yield from ((root, path) for path in known if path is not None)


def _open(path: Path, run: Path | None, signers: Collection[PublicKey]) -> list[_Seen]:
    """The artifact, and what is inside of it."""
    opened = open_any(path, signers=signers)
    layout = layout_of(opened.tensors) if isinstance(opened, TensorFile) else {}
    found = signers_of(signed_by(opened, signers=signers), signers)
    seen = [_Seen(path, opened.header, opened.sha256, run, layout, found)]
    if isinstance(opened, TensorFile):
        with opened:
            if isinstance(opened.header, MasterHeader):
                components_of(opened.narrow(MasterHeader))
            elif isinstance(opened.header, ProxyHeader):
                check_proxy(opened.narrow(ProxyHeader))
            elif isinstance(opened.header, StateHeader):
                check_state(opened.narrow(StateHeader))
            elif isinstance(opened.header, TranscriptHeader):
                check_transcript(opened.narrow(TranscriptHeader))
    elif isinstance(opened, FolderArtifact) and opened.header.kind == "package":
        seen += _open(path / PROXY, run, signers)
        if (path / BASE).is_dir():
            seen += _open(path / BASE, run, signers)
    return seen


def _check_parents(child: _Seen, by_digest: dict[str, _Seen], *, complete: bool) -> Verified:
    found = 0
    parents = [(role, digest) for role, digests in child.header.parents.items() for digest in digests]
    for role, digest in parents:
        parent = by_digest.get(digest)
        if parent is None:
            _refuse_impostor(child, role, by_digest.values())
            if complete:
                raise LineageError(f"{child.path}: its {role} {digest[:12]}… is not among the artifacts")
            continue
        found += 1
        _check_pair(child, role, parent)
    return Verified(
        path=str(child.path),
        kind=child.header.kind,
        sha256=child.sha256,
        round=child.header.round,
        federation=child.federation,
        n_parents=len(parents),
        parents_found=found,
        signers=child.signers,
    )


def _check_pair(child: _Seen, role: str, parent: _Seen) -> None:
    expected = child.header.round - _ROUNDS_BACK.get((child.header.kind, role), 0)
    if role in {*_ROLES, *_ORIGINS} and parent.header.kind != _ORIGINS.get(role, role):
        raise LineageError(f"{child.path}: its {role} is {parent.path}, which is {spell_kind(parent.header.kind)}")
    if role in _ORIGINS:
        return
    if parent.federation != child.federation and child.header.kind != "report":
        raise LineageError(f"{child.path} and its {role} {parent.path} are of different federations")
    if parent.header.method != child.header.method and child.header.kind != "report":
        ours, theirs = child.header.method, parent.header.method
        raise LineageError(f"{child.path} is of method {ours!r}, its {role} {parent.path} of {theirs!r}")
    if role in _ROLES - {"base"} and child.header.kind not in {"base", "report"} and parent.header.round != expected:
        raise LineageError(f"{child.path}: its {role} {parent.path} is of round {parent.header.round}, not {expected}")
    _check_contents(child, parent)


def _check_contents(child: _Seen, parent: _Seen) -> None:
    """What an update, a state or a master holds must fit what it was made from."""
    source, made, origin = str(child.path), child.header, parent.header
    if isinstance(made, MasterHeader) and isinstance(origin, MasterHeader):
        _check_steps(made, origin, source=source)
    elif isinstance(made, MasterHeader) and isinstance(origin, PackageHeader):
        _check_control(source, made.spec.control_variates, parent, origin.spec.train.control_variates)
    elif isinstance(made, ProxyHeader) and isinstance(origin, MasterHeader):
        _check_control(source, made.spec.control_variates, parent, origin.spec.control_variates)
    elif isinstance(made, PackageHeader) and isinstance(origin, ProxyHeader):
        check_asked(made, origin, source=source)
    elif isinstance(made, UpdateHeader) and isinstance(origin, PackageHeader):
        check_answers(made, origin, source=source)
    elif isinstance(made, UpdateHeader) and isinstance(origin, ProxyHeader):
        check_scores(made, origin, source=source)
        check_same_layout(child.layout, proxy_layout(update_shapes(origin.spec), made.spec.quantize), source=source)
    elif isinstance(made, StateHeader) and isinstance(origin, UpdateHeader):
        if made.spec.client != origin.spec.client:
            raise LineageError(
                f"{source}: of client {made.spec.client!r}, its update {parent.path} of {origin.spec.client!r}"
            )
        # A state has all components, an update those that its round trains.
        if not parent.layout.items() <= proxy_layout(residual_shapes(child.layout), origin.spec.quantize).items():
            raise LineageError(f"{source}: its residuals do not fit the tensors of its update {parent.path}")
        _check_control(source, made.spec.control_variates, parent, origin.spec.control_variates)


def _check_control(source: str, found: bool, parent: _Seen, expected: bool) -> None:
    if found != expected:
        has, other = ("has" if yes else "has no" for yes in (found, expected))
        raise LineageError(f"{source}: it {has} control variates, {parent.path} {other}")


def _check_steps(made: MasterHeader, origin: MasterHeader, *, source: str) -> None:
    expected = 0 if made.spec.aggregate is None else steps_after(origin.spec, made.spec.aggregate)
    if made.spec.optimizer_steps != expected:
        raise LineageError(
            f"{source}: its optimizer has made {made.spec.optimizer_steps} steps; after its master that is {expected}"
        )


def _refuse_impostor(child: _Seen, role: str, others: Iterable[_Seen]) -> None:
    """In a run folder, a parent is missing, and something else stands in its place."""
    wanted = child.header.round - _ROUNDS_BACK.get((child.header.kind, role), 0)
    if child.run is None or role not in {"master", "proxy"} or child.header.kind == "base":
        return
    for other in others:
        if (other.run, other.header.kind, other.header.round) == (child.run, role, wanted):
            raise LineageError(
                f"{child.path} was made from another {role} of round {wanted} than {other.path}",
                hint="one of the two does not belong into this run",
            )
