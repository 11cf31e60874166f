"""What several steps open: artifacts by reference, and the base model that belongs to them."""

from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.models.base_folder import check_base
from fedlpp_cli.records.headers import Header, HeaderT
from fedlpp_cli.records.specs import BaseSpec
from fedlpp_cli.refs import Ref, parse_ref

RefLike = str | Path | Ref


def open_tensors(ref: RefLike, kind: type[HeaderT]) -> TensorFile[HeaderT]:
    """Fetch and open an artifact of one kind that is a safetensors file.

    Raises:
        InputError, ArtifactError, LineageError: as `TensorFile`.
        HubError: as `store.fetch`.
    """
    return TensorFile(store.fetch(parse_ref(ref)), kind)


def federation_of(artifact: TensorFile[HeaderT]) -> str:
    """The federation's name: the sha256 of its first master, which this artifact may be."""
    return artifact.header.federation or artifact.sha256


def check_parent(child: Header, role: str, parent_sha256: str, *, source: str, parent: str) -> None:
    """Refuse an artifact that was not made from that parent.

    Raises:
        LineageError: it names another, or none.
    """
    stated = child.parent(role)
    if stated != parent_sha256:
        found = f"{stated[:12]}…" if stated else "none"
        raise LineageError(f"{source}: its {role} is {found}, {parent} is {parent_sha256[:12]}…")


def public_base_folder(spec: BaseSpec, base: RefLike | None) -> Path:
    """The verified folder of the base model that `spec` names.

    Args:
        spec: what was agreed on.
        base: where the caller has it; without it, the Hub address in `spec`.

    Raises:
        UsageError: no `base`, and the artifact gives no address.
        ModelError: another model than the agreed one.
    """
    where = base if base is not None else spec.hub
    if where is None:
        raise UsageError("--base is missing: the base model has no public address", hint="--base FOLDER")
    folder, _ = store.fetch_model(parse_ref(where))
    check_base(folder, spec)
    return folder


def choose_device(device: str) -> str:
    """`auto` is the GPU where there is one, `split` is all GPUs together.

    Raises:
        UsageError: a device that torch does not have.
    """
    import torch

    if device == "split" and torch.cuda.device_count() < 2:
        raise UsageError(f"--device split: torch sees {torch.cuda.device_count()} GPUs here, two are needed")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no GPU here")
    return device
