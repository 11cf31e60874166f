"""`import`: a PEFT adapter becomes the first master of a federation."""

from fedlpp_cli.adapters.peft_format import read_peft
from fedlpp_cli.artifact import store
from fedlpp_cli.errors import InputError
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.models.base_folder import identify_base
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.weight_roles import weight_roles
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.specs import ModelSpec, TaskSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.init import MasterResult, write_first_master
from fedlpp_cli.steps.inputs import RefLike


def import_adapter(
    adapter: RefLike,
    *,
    base: RefLike,
    out: RefLike,
    task: TaskSpec | None = None,
    private_base: bool = False,
    method: str = METHOD,
    method_options: MethodSpec | None = None,
    seed: int = 0,
    force: bool = False,
    on_progress: Progress = silent,
) -> MasterResult:
    """Start a federation from an adapter that PEFT has trained.

    Args:
        adapter: folder or Hub address with `adapter_config.json` and `adapter_model.safetensors`.
        base: the model that the adapter belongs to.
        out: where the master goes: a path of the owner's.
        task: what is learnt; next tokens by default.
        private_base: clients shall only ever see a quantized copy of the base.
        method: one of `methods/table.py`; the federation's from now on.
        method_options: what of it is not as in its paper.
        seed: for whatever is drawn later.
        force: replace an existing output.
        on_progress: told what is going on.

    Raises:
        InputError: not plain LoRA in safetensors, or not for this base.
        ModelError: the base cannot be opened.
        SecrecyError: `out` is on the Hub.
        UsageError: no such method, or one that this adapter is not for.
    """
    task, chosen, options = task or TaskSpec(), method_named(method), method_options or MethodSpec()
    with store.destination(parse_ref(out), message="", secret=True, force=force) as place:
        found = read_peft(store.fetch(parse_ref(adapter)))
        on_progress("opening base model", 0, 0)
        folder, hub = store.fetch_model(parse_ref(base))
        lora = resolve_lora(folder, task, found.lora)
        chosen.check(Asked(lora=lora, options=options))
        expected = first_values(folder, task, lora, seed=seed)
        for name in sorted({*expected, *found.values}):
            shapes = [tuple(values[name].shape) if name in values else None for values in (found.values, expected)]
            if shapes[0] != shapes[1]:
                raise InputError(f"{adapter}: {name} is {shapes[0]}, this base and task need {shapes[1]}")
            check_finite(found.values[name], name=name)
        public_address = str(hub) if hub is not None and not private_base else None
        base_spec = identify_base(folder, private=private_base, hub=public_address)
        model = ModelSpec(base=base_spec, task=task, lora=lora)
        weights = weight_roles(folder, task, lora) if private_base else None
        return write_first_master(
            place, model, found.values, method=method, options=options, seed=seed, base_weights=weights, force=force
        )
