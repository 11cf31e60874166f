"""Everything that a plan reads before it computes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlpp_cli.adapters.drawn import drawn_of
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.ranks import shapes_of_rank
from fedlpp_cli.adapters.trained import factor_of, trained_shapes
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.models.adapted import component_shapes
from fedlpp_cli.models.base_folder import model_type_of
from fedlpp_cli.models.first_values import resolve_lora
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.planning.calibration import Rows, share_out
from fedlpp_cli.progress import Progress
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import BaseSpec, ModelSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, public_base_folder
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read. `federation` has full names of layers; the base lies in `folder`.

    `first_round`: the master's, which says `spec`, or would say it. `drawn`: components that clients draw and nobody
    sends.
    """

    federation: FederationSpec
    folder: Path
    shapes: Mapping[str, Shape]
    task: Task
    data: Data
    rows: Rows
    first_round: int
    spec: MasterSpec
    drawn: frozenset[str]

    @property
    def held(self) -> dict[str, Shape]:
        """Component to shape of what proxies hold."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.drawn}

    def updates(self, n_rounds: int, rank: int) -> list[dict[str, Shape]]:
        """Component to shape of what updates hold in each of so many rounds, by what is known before them."""
        plan, sent = method_named(self.federation.method).plan, shapes_of_rank(self.shapes, rank)
        return [trained_shapes(sent, plan(self.spec, self.first_round + number)) for number in range(n_rounds)]


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
        federation, folder, shapes, number, spec = _from_master(federation, master)
        drawn = _drawn(federation.method, shapes, master)
    else:
        if federation.base is None:
            raise UsageError("--base is missing", hint="or base = … in the --federation file")
        folder, _ = store.fetch_model(parse_ref(federation.base))
        lora = resolve_lora(folder, federation.task, federation.lora)
        federation = dataclasses.replace(federation, lora=lora)
        model = open_model(folder, federation.task, device="meta").model
        shapes, number, spec = component_shapes(model, lora), 0, _spec(federation, folder)
        drawn = _drawn(federation.method, shapes, None)
    task = task_for(federation.task, open_tokenizer(folder), columns)
    read = load_data(parse_ref(data), task, columns=columns, split=split, on_progress=on_progress)
    rows = share_out(read, clients, n_shards, work, split=split)
    return Inputs(
        federation=federation, folder=folder, shapes=shapes, task=task, data=read, rows=rows, first_round=number,
        spec=spec, drawn=drawn,
    )  # fmt: skip


def _spec(federation: FederationSpec, folder: Path) -> MasterSpec:
    """What `init` would say in its master."""
    base = BaseSpec(model_type=model_type_of(folder), private=federation.private_base, hub=None, files={})
    model = ModelSpec(base=base, task=federation.task, lora=federation.lora)
    return MasterSpec(
        model=model, seed=federation.seed, quantize=None, aggregate=None, method_options=federation.method_options
    )


def _drawn(method: str, shapes: Mapping[str, Shape], master: Path | None) -> frozenset[str]:
    if not method_named(method).draws_a:
        return frozenset()
    if master is not None:
        with TensorFile(master, MasterHeader) as opened:
            if drawn_of(opened) is None:
                return frozenset()
    return frozenset(name for name in shapes if factor_of(name) == "A")


def _from_master(
    federation: FederationSpec, path: Path
) -> tuple[FederationSpec, Path, dict[str, Shape], int, MasterSpec]:
    """The federation that the master belongs to, where it stands, and what the master says."""
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
    return federation, folder, shapes, master.header.round, spec
