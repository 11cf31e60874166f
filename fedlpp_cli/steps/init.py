"""`init`: a base model and a task become the first master of a federation."""

from typing import TYPE_CHECKING

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.models.base_folder import identify_base
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.weight_roles import weight_roles
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import LoraSpec, ModelSpec, TaskSpec, WeightRole
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike

if TYPE_CHECKING:
    from torch import Tensor


class MasterResult(Record, frozen=True, kw_only=True):
    """What `init` and `import` made. `federation` is the name of the new federation: this master's sha256."""

    path: str
    sha256: str
    federation: str
    method: str
    model_type: str
    private_base: bool
    n_layers: int
    n_parameters: int
    modules_to_save: tuple[str, ...]


def init(
    base: RefLike,
    *,
    out: RefLike,
    task: TaskSpec | None = None,
    lora: LoraSpec | None = None,
    private_base: bool = False,
    method: str = METHOD,
    method_options: MethodSpec | None = None,
    seed: int = 0,
    force: bool = False,
    on_progress: Progress = silent,
) -> MasterResult:
    """Start a federation: fix base model, task and adapter layout, and draw the adapter's first values.

    Args:
        base: folder or Hub address of the pretrained model.
        out: where the master goes: a path of the owner's.
        task: what is learnt; next tokens by default.
        lora: the adapter; `target_modules` may be ends of layer names, or "all-linear".
        private_base: clients shall only ever see a quantized copy of the base.
        method: one of `methods/table.py`; the federation's from now on.
        method_options: what of it is not as in its paper.
        seed: every value drawn depends on it and on its own name.
        force: replace an existing output.
        on_progress: told what is going on.

    Raises:
        ModelError: the base cannot be opened or has no such layers.
        SecrecyError: `out` is on the Hub.
        UsageError: no such method, or one that this adapter is not for.
    """
    task, chosen, options = task or TaskSpec(), method_named(method), method_options or MethodSpec()
    with store.destination(parse_ref(out), message="", secret=True, force=force) as place:
        on_progress("opening base model", 0, 0)
        folder, hub = store.fetch_model(parse_ref(base))
        public_address = str(hub) if hub is not None and not private_base else None
        base_spec = identify_base(folder, private=private_base, hub=public_address)
        lora = resolve_lora(folder, task, lora or LoraSpec())
        chosen.check(Asked(lora=lora, options=options))
        values = first_values(folder, task, lora, seed=seed)
        model = ModelSpec(base=base_spec, task=task, lora=lora)
        weights = weight_roles(folder, task, lora) if private_base else None
        return write_first_master(
            place, model, values, method=method, options=options, seed=seed, base_weights=weights, force=force
        )


def write_first_master(
    place: store.Destination,
    model: ModelSpec,
    values: "dict[str, Tensor]",
    *,
    method: str,
    options: MethodSpec,
    seed: int,
    base_weights: dict[str, WeightRole] | None,
    parents: dict[str, tuple[str, ...]] | None = None,
    force: bool,
) -> MasterResult:
    """Write a master of round 0. `base_weights`: of a private base, see `MasterSpec`. `parents`: what it began with."""
    header = MasterHeader(
        federation=None,
        round=0,
        method=method,
        parents=parents or {},
        spec=MasterSpec(
            model=model, seed=seed, quantize=None, aggregate=None, base_weights=base_weights, method_options=options
        ),
    )
    layout = {name: ("F32", tuple(value.shape)) for name, value in values.items()}
    with write_tensors(place.path, header, layout, private=True, force=force) as writer:
        for name, value in values.items():
            writer.write(name, value)
    sha256 = sha256_of_file(place.path)
    return MasterResult(
        path=str(place.written),
        sha256=sha256,
        federation=sha256,
        method=method,
        model_type=model.base.model_type,
        private_base=model.base.private,
        n_layers=len(model.lora.target_modules),
        n_parameters=sum(value.numel() for value in values.values()),
        modules_to_save=model.lora.modules_to_save,
    )
