"""What a simulation would do: who trains on how much, and what would travel. Reads all data, writes nothing."""

from collections.abc import Mapping
from pathlib import Path

from fedlpp_cli.adapters.control_tensors import with_control
from fedlpp_cli.adapters.masks import mask_layout
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.proxy_tensors import check_groups, proxy_layout
from fedlpp_cli.adapters.ranks import shapes_of_rank
from fedlpp_cli.adapters.trained import factor_of, trained_shapes
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.client_data import Clients, Cut, open_clients
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.partition import sample_clients
from fedlpp_cli.engines.roles import assign_roles
from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.models.adapted import component_shapes
from fedlpp_cli.models.base_folder import model_type_of
from fedlpp_cli.models.first_values import resolve_lora
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.models.quantized_base import plan_quantized_base
from fedlpp_cli.progress import Progress
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import BaseHeader, MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import BaseSpec, ModelSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, public_base_folder
from fedlpp_cli.steps.sizes import base_groups, planned_base_groups
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.training.schedule import n_steps


class PlannedClient(Record, frozen=True, kw_only=True):
    """One client, and its training in each round that it takes part in."""

    client: str
    n_examples: int
    n_steps: int


class SimulationPlan(Record, frozen=True, kw_only=True):
    """What is left to do. `bytes_down`, `bytes_up`: to and from each client in a round, codes and scales.

    A private base is part of what goes down, and so are control variates, from the second round on. `attackers` are
    among the clients, and so is the `reference`, which is the owner and takes part in no round.
    """

    n_rounds: int
    clients_per_round: int
    clients: tuple[PlannedClient, ...]
    bytes_down: int
    bytes_up: int
    attackers: tuple[str, ...]
    reference: str | None


def plan_simulation(
    federation: FederationSpec,
    source: Mapping[str, RefLike] | Cut,
    *,
    master: Path | None,
    base_copy: Path,
    round_number: int,
    n_left: int,
    clients_per_round: int | None,
    attack: AttackSpec | None,
    columns: Mapping[str, str],
    split: str | None,
    on_progress: Progress,
) -> SimulationPlan:
    """Look at everything.

    Args:
        federation: the settings.
        source: whose data is whose.
        master: the newest one; None before there is any.
        base_copy: where the quantized copy of a private base lies, or will.
        round_number: the first of the rounds that are not played yet.
        n_left: how many there are.
        clients_per_round: how many take part; None for all.
        attack: who is against the owner, and how; None for nobody.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        on_progress: told what is going on.

    Raises:
        UsageError, InputError, DataError, ModelError: as `simulate`.
    """
    spec, shapes, folder = _model(federation, master, base_copy)
    task = task_for(spec.model.task, open_tokenizer(folder), columns)
    clients = open_clients(source, task, columns=columns, split=split, seed=federation.seed, on_progress=on_progress)
    roles = assign_roles(clients.names, attack=attack, reference=federation.reference, seed=federation.seed)
    chosen = sample_clients(roles.clients, clients_per_round, seed=federation.seed, round_number=0)
    federation.check_population(len(roles.clients), len(chosen))
    check_groups(shapes, federation.quantize)
    shapes = shapes_of_rank(shapes, federation.proxy_rank or spec.model.lora.rank)
    method = method_named(federation.method)
    plan = method.plan(spec, round_number)
    sent = {name: shape for name, shape in shapes.items() if not (method.draws_a and factor_of(name) == "A")}
    down = layout_bytes(proxy_layout(with_control(sent, federation.train.control_variates), federation.quantize))
    if federation.mask.hides:
        down += layout_bytes(mask_layout(shapes, federation.mask))
    if spec.model.base.private:
        groups = (
            base_groups(open_folder(base_copy, BaseHeader))
            if base_copy.is_dir()
            else planned_base_groups(plan_quantized_base(folder, spec, federation.base_quantize)[0])
        )
        down += sum(group.n_bytes for group in groups)
    return SimulationPlan(
        n_rounds=n_left,
        clients_per_round=len(chosen),
        clients=_planned(federation, clients, on_progress),
        bytes_down=down,
        bytes_up=layout_bytes(proxy_layout(trained_shapes(shapes, plan), federation.update)),
        attackers=tuple(sorted(roles.attackers)),
        reference=federation.reference,
    )


def _planned(federation: FederationSpec, clients: Clients, on_progress: Progress) -> tuple[PlannedClient, ...]:
    planned = []
    for number, name in enumerate(clients.names, start=1):
        size = clients.known_size(name)
        n_examples = len(clients.examples(name)) if size is None else size
        planned.append(PlannedClient(client=name, n_examples=n_examples, n_steps=n_steps(federation.train, n_examples)))
        on_progress("reading data of clients", number, len(clients.names))
    return tuple(planned)


def _model(
    federation: FederationSpec, master: Path | None, base_copy: Path
) -> tuple[MasterSpec, dict[str, Shape], Path]:
    """What the master says or would say, component to shape, and a folder with the model's tokenizer."""
    if master is not None:
        with TensorFile(master, MasterHeader) as opened:
            shapes = components_of(opened)
            spec = opened.header.spec
        if not spec.model.base.private:
            return spec, shapes, public_base_folder(spec.model.base, federation.base)
        return spec, shapes, base_copy if base_copy.is_dir() else _given_base(federation)
    folder, task = _given_base(federation), federation.task
    lora = resolve_lora(folder, task, federation.lora)
    shapes = component_shapes(open_model(folder, task, device="meta").model, lora)
    base = BaseSpec(model_type=model_type_of(folder), private=federation.private_base, hub=None, files={})
    model = ModelSpec(base=base, task=task, lora=lora)
    return MasterSpec(model=model, seed=federation.seed, quantize=None, aggregate=None), shapes, folder


def _given_base(federation: FederationSpec) -> Path:
    if federation.base is None:
        raise UsageError("--base is missing", hint="or base = … in the --federation file")
    folder, _ = store.fetch_model(parse_ref(federation.base))
    return folder
