"""Compute aggregates again from their inputs and compare: anybody who holds the inputs can. Loads no torch until then.

What is computed is the owner's secret like the aggregate itself: it lies in a private folder and is removed.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedlpp_cli import canonical
from fedlpp_cli.adapters.master_tensors import noise_key
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import RerunError, UsageError
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.record import Record, to_plain

Outcome = Literal["equal", "other-producer", "inputs-missing"]

# Who wrote a header, and in which version of the format, is no part of what was computed.
_ABOUT_THE_WRITER: Final = {"format", "producer"}


class Rerun(Record, frozen=True, kw_only=True):
    """One aggregate. `recomputed`: the sha256 that came out, None where inputs are missing, and how many are.

    "equal": to the byte. "other-producer": all tensors to the byte and all that the header says of them; it was
    written by another version of fedlpp, `producer`, than the one that ran.
    """

    path: str
    round: int
    sha256: str
    outcome: Outcome
    recomputed: str | None
    producer: str
    n_missing: int


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Where the parents of an aggregate lie."""

    master: Path
    packages: Sequence[Path]
    updates: Sequence[Path]
    reference: Path | None


def rerun_masters(
    masters: Mapping[Path, MasterHeader], places: Mapping[str, Path], *, on_progress: Progress
) -> tuple[Rerun, ...]:
    """Compute every aggregate again whose inputs are at hand.

    Args:
        masters: place to header of the masters; those that were not made from updates are passed over.
        places: sha256 to place of artifacts of any kind.
        on_progress: told what is going on.

    Raises:
        UsageError: no aggregate, or none whose inputs are all there.
        RerunError: one comes out otherwise; the message says of each what differs.
        ArtifactError, LineageError, GateError: inputs that cannot be aggregated.
    """
    digests = {path: sha256 for sha256, path in places.items()}
    aggregates = sorted(
        ((path, header) for path, header in masters.items() if header.parents.get("update")),
        key=lambda one: (one[1].round, digests[one[0]]),
    )
    if not aggregates:
        raise UsageError("--rerun: no master among the artifacts was made by aggregate")
    reruns: list[Rerun] = []
    problems: list[str] = []
    for number, (path, header) in enumerate(aggregates, start=1):
        on_progress("computing again", number, len(aggregates))
        inputs, recomputed, differences = _find_inputs(header, places), None, list[str]()
        if isinstance(inputs, _Inputs):
            recomputed, differences = _recompute(path, header, inputs)
        if set(differences) - _ABOUT_THE_WRITER:
            problems.append(_spell(path, digests[path], str(recomputed), differences))
        n_missing = inputs if isinstance(inputs, int) else 0
        reruns.append(_rerun(path, header, digests[path], recomputed, n_missing))
    _refuse(problems, len(aggregates))
    _refuse_nothing(reruns)
    return tuple(reruns)


def _find_inputs(header: MasterHeader, paths: Mapping[str, Path]) -> _Inputs | int:
    """Where the inputs lie, or how many are missing."""
    wanted = [header.parents.get(role, ()) for role in ("master", "package", "update", "reference")]
    missing = sum(digest not in paths for digests in wanted for digest in digests)
    if missing:
        return missing
    masters, packages, updates, references = ([paths[digest] for digest in digests] for digests in wanted)
    if len(masters) != 1 or not packages:
        return 1
    return _Inputs(masters[0], packages, updates, references[0] if references else None)


def _recompute(path: Path, header: MasterHeader, inputs: _Inputs) -> tuple[str, list[str]]:
    """The sha256 that comes out, and which header fields and tensors are not the given ones."""
    from fedlpp_cli.steps.aggregate import aggregate

    with TensorFile(path, MasterHeader) as given:
        key = noise_key(given)
    # A folder of mode 0700, removed also when something goes wrong.
    with tempfile.TemporaryDirectory(prefix="fedlpp-") as folder:
        out = Path(folder) / "master.safetensors"
        aggregate(
            inputs.master,
            inputs.updates,
            packages=inputs.packages,
            out=out,
            spec=header.spec.aggregate,
            reference=inputs.reference,
            noise_key=key,
        )
        with TensorFile(path, MasterHeader) as given, TensorFile(out, MasterHeader) as made:
            return made.sha256, [] if made.sha256 == given.sha256 else _differences(given, made)


def _differences(given: TensorFile[MasterHeader], made: TensorFile[MasterHeader]) -> list[str]:
    """The header fields and the tensors that differ: a field's path, a tensor's name."""
    left, right = _header_fields(given), _header_fields(made)
    fields = [name for name in sorted({*left, *right}) if left.get(name, ...) != right.get(name, ...)]
    names = sorted({*given.tensors, *made.tensors})
    return fields + [f"tensor {name}" for name in names if not _same_tensor(given, made, name)]


def _same_tensor(one: TensorFile[MasterHeader], other: TensorFile[MasterHeader], name: str) -> bool:
    import torch

    if name not in one.tensors or name not in other.tensors:
        return False
    left, right = one.tensors[name], other.tensors[name]
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    # As bytes: two numbers that are not finite are the same too if their bits are, and -0.0 is not 0.0.
    return torch.equal(one.read(name).reshape(-1).view(torch.uint8), other.read(name).reshape(-1).view(torch.uint8))


def _header_fields(file: TensorFile[MasterHeader]) -> dict[str, object]:
    """Every field by its path: with defaults of an older format filled in, unknown ones of a newer format kept."""
    known = canonical.encode(to_plain(file.header))
    return _flat(json.loads(known)) | _flat(json.loads(file.raw_header))


def _flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        return {name: leaf for key, child in value.items() for name, leaf in _flat(child, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def _rerun(path: Path, header: MasterHeader, sha256: str, recomputed: str | None, n_missing: int) -> Rerun:
    outcome: Outcome = "equal" if recomputed == sha256 else "other-producer"
    return Rerun(
        path=str(path),
        round=header.round,
        sha256=sha256,
        outcome="inputs-missing" if recomputed is None else outcome,
        recomputed=recomputed,
        producer=header.producer,
        n_missing=n_missing,
    )


def _spell(path: Path, sha256: str, recomputed: str, differences: Sequence[str]) -> str:
    shown = ", ".join(differences[:3]) + (f" and {len(differences) - 3} more" if len(differences) > 3 else "")
    return f"{path} is {sha256[:12]}…, computed again from its inputs {recomputed[:12]}…: {shown} differ"


def _refuse(problems: Sequence[str], n_aggregates: int) -> None:
    if len(problems) == 1:
        raise RerunError(problems[0])
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise RerunError(f"{len(problems)} of {n_aggregates} aggregates come out otherwise:{lines}")


def _refuse_nothing(reruns: Sequence[Rerun]) -> None:
    first = reruns[0]
    if all(one.recomputed is None for one in reruns):
        raise UsageError(
            f"--rerun: {first.n_missing} of the inputs of {first.path} are not among the artifacts",
            hint="name the master before it, its packages and all its updates too, or the whole run folder",
        )
