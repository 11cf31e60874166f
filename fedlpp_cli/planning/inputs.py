"""Everything that a plan reads before it computes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.adapted import component_shapes
from fedlpp_cli.models.first_values import resolve_lora
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.planning.calibration import Rows, share_out
from fedlpp_cli.progress import Progress
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, public_base_folder
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read. `federation` has full names of layers; the base lies in `folder`. `first_round`: the master's."""

    federation: FederationSpec
    folder: Path
    shapes: Mapping[str, Shape]
    task: Task
    data: Data
    rows: Rows
    first_round: int


def read_inputs(
    federation: FederationSpec,
    data: RefLike,
    clients: Mapping[str, RefLike] | None,
    n_shards: int | None,
    work: Path,
    *,
    master: Path | None,
    columns: Mapping[str, str],
    split: str | None,
    on_progress: Progress,
) -> Inputs:
    """Open and check. Arguments as `plan`; `work` is a private folder.

    Raises:
        UsageError: no base; a master of a private base; settings that do not go together.
        InputError, DataError, ModelError: what cannot be read.
    """
    if master is not None:
        federation, folder, shapes, number = _from_master(federation, master)
    else:
        if federation.base is None:
            raise UsageError("--base is missing", hint="or base = … in the --federation file")
        folder, _ = store.fetch_model(parse_ref(federation.base))
        lora = resolve_lora(folder, federation.task, federation.lora)
        federation = dataclasses.replace(federation, lora=lora)
        shapes, number = component_shapes(open_model(folder, federation.task, device="meta").model, lora), 0
    task = task_for(federation.task, open_tokenizer(folder), columns)
    read = load_data(parse_ref(data), task, columns=columns, split=split, on_progress=on_progress)
    rows = share_out(read, clients, n_shards, work, split=split)
    return Inputs(
        federation=federation, folder=folder, shapes=shapes, task=task, data=read, rows=rows, first_round=number
    )  # fmt: skip


def _from_master(federation: FederationSpec, path: Path) -> tuple[FederationSpec, Path, dict[str, Shape], int]:
    """The federation that the master belongs to, and where it stands."""
    with TensorFile(path, MasterHeader) as master:
        spec, shapes, method = master.header.spec, components_of(master), master.header.method
    if spec.model.base.private:
        raise UsageError(f"{path}: a master of a private base; its clients hold a copy of it already", hint="--base")
    model = spec.model
    folder = public_base_folder(model.base, federation.base)
    federation = dataclasses.replace(
        federation, base=federation.base or model.base.hub, private_base=False, seed=spec.seed, task=model.task,
        lora=model.lora, method=method, method_options=spec.method_options,
    )  # fmt: skip
    return federation, folder, shapes, master.header.round
