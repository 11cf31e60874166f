"""`inspect`: what an artifact says of itself. Opens anything, trusts nothing, loads no torch."""

import json
from typing import Any

from fedlpp_cli.adapters.checkpoint_tensors import adapter_parameters
from fedlpp_cli.adapters.control_tensors import with_control
from fedlpp_cli.adapters.drawn import sent_shapes
from fedlpp_cli.adapters.master_tensors import components_of, n_parameters
from fedlpp_cli.adapters.residuals import residual_shapes
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE, PROXY, FolderArtifact
from fedlpp_cli.artifact.opening import open_any, signed_by
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of
from fedlpp_cli.quantization.layout import max_codes, table_of
from fedlpp_cli.records.headers import (
    CheckpointHeader,
    FileEntry,
    MasterHeader,
    ProxyHeader,
    StateHeader,
    TranscriptHeader,
    UpdateHeader,
)
from fedlpp_cli.records.keys import Signer, signers_of
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.sizes import TensorGroup, adapter_groups, base_groups


class TensorEntry(Record, frozen=True, kw_only=True):
    """One tensor in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


class InspectResult(Record, frozen=True, kw_only=True):
    """What was found. `header` is as it stands in the file, fields of newer versions included.

    `n_parameters` are those of components, without what a server optimizer keeps beside them and without control
    variates; a checkpoint's are its adapter's, a transcript has none. `bits_per_parameter` is set for proxies and
    rounded updates: codes and scales over the numbers that they stand for. A rounded update does not state its shapes:
    its `n_parameters` is None, and codes that would still have fitted count, at most four for each tensor.
    `unquantized` lists what a package or a base carries above its stated precision. `groups`: of what is rounded, or
    carried beside it, sizes and the error to expect. `signers`: whose good signatures a package or a transcript
    has; nobody says here
    whom to trust.
    """

    path: str
    kind: str
    sha256: str
    n_bytes: int
    header: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    files: tuple[FileEntry, ...]
    n_parameters: int | None
    bits_per_parameter: float | None
    unquantized: dict[str, str]
    groups: tuple[TensorGroup, ...]
    signers: tuple[Signer, ...]


def inspect(artifact: RefLike) -> InspectResult:
    """Open an artifact of any kind and say what it is.

    Args:
        artifact: path or Hub address.

    Raises:
        InputError, ArtifactError, DigestError, SignatureError: it cannot be opened or is not sound.
    """
    opened = open_any(store.fetch(parse_ref(artifact)))
    header: dict[str, Any] = json.loads(opened.raw_header)
    common = {"path": str(artifact), "kind": opened.header.kind, "sha256": opened.sha256, "header": header}
    if isinstance(opened, TensorFile):
        with opened:
            return _of_tensors(opened, common)
    if isinstance(opened, FolderArtifact):
        return _of_folder(opened, common)
    return _result(common, n_bytes=len(opened.raw_header))


def _of_tensors(file: TensorFile[Any], common: dict[str, Any]) -> InspectResult:
    tensors = tuple(
        TensorEntry(name=info.name, dtype=info.dtype, shape=info.shape, n_bytes=info.n_bytes)
        for info in file.tensors.values()
    )
    payload = sum(info.n_bytes for info in file.tensors.values())
    n_values: int | None = sum(info.n_elements for info in file.tensors.values())
    bits: float | None = None
    groups: tuple[TensorGroup, ...] = ()
    signers: tuple[Signer, ...] = ()
    if isinstance(file.header, MasterHeader):
        n_values = n_parameters(components_of(file.narrow(MasterHeader)))
    elif isinstance(file.header, CheckpointHeader):
        n_values = adapter_parameters(file.tensors)
    elif isinstance(file.header, ProxyHeader):
        spec = file.header.spec
        n_values = n_parameters(spec.shapes)
        sent = with_control(sent_shapes(spec), spec.control_variates)
        bits = round(8 * payload / n_parameters(sent), 4) if n_values else None
        groups = adapter_groups(sent, spec.quantize)
    elif isinstance(file.header, TranscriptHeader):
        n_values, signers = None, signers_of(signed_by(file), trusted=())
    elif isinstance(file.header, StateHeader):
        n_values = n_parameters(residual_shapes(layout_of(file.tensors)))
    elif isinstance(file.header, UpdateHeader) and (rounding := file.header.spec.quantize).bits != "full":
        codes = [info.n_bytes for info in file.tensors.values() if info.name.endswith(".codes")]
        n_codes = sum(max_codes(n_bytes, table_of(rounding)) for n_bytes in codes)
        n_values, bits = None, round(8 * payload / n_codes, 4) if n_codes else None
    return _result(
        common,
        n_bytes=file.n_bytes,
        tensors=tensors,
        n_parameters=n_values,
        bits_per_parameter=bits,
        groups=groups,
        signers=signers,
    )


def _of_folder(folder: FolderArtifact[Any], common: dict[str, Any]) -> InspectResult:
    files: tuple[FileEntry, ...] = folder.header.files
    unquantized: dict[str, str] = {}
    groups: tuple[TensorGroup, ...] = ()
    if folder.header.kind == "base":
        unquantized, groups = dict(folder.header.spec.unquantized), base_groups(folder)
    else:
        for inside in (PROXY, BASE):
            if (folder.path / inside).exists():
                found = inspect(folder.path / inside)
                unquantized, groups = found.unquantized, groups + found.groups
    n_bytes = len(folder.raw_header) + sum(entry.size for entry in files)
    signers = signers_of(folder.signed_by, trusted=())
    return _result(common, n_bytes=n_bytes, files=files, unquantized=unquantized, groups=groups, signers=signers)


def _result(common: dict[str, Any], *, n_bytes: int, **found: Any) -> InspectResult:
    empty: dict[str, Any] = {
        "tensors": (), "files": (), "n_parameters": None, "bits_per_parameter": None, "unquantized": {},
        "groups": (), "signers": (),
    }  # fmt: skip
    return InspectResult(**common, n_bytes=n_bytes, **{**empty, **found})
