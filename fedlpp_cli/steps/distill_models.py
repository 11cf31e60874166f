"""Who teaches and who learns: a model out of a master, a PEFT adapter, or a plain folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.owners_adapter import owners_adapter, owners_lora
from fedlpp_cli.adapters.peft_format import CONFIG as PEFT_CONFIG
from fedlpp_cli.adapters.peft_format import read_peft
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import InputError, ModelError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.base_folder import CONFIG, identify_base, model_type_of
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.weight_roles import weight_roles
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.record import read_record
from fedlpp_cli.records.specs import ComputeType, LoraSpec, ModelSpec, TaskSpec, WeightRole
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of, public_base_folder

# A folder's own weights, with nothing on them.
_NO_ADAPTER = LoraSpec(target_modules=(), modules_to_save=())


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that can answer. Of a master: its sha256, federation and round."""

    folder: Path
    task: TaskSpec
    lora: LoraSpec
    values: Mapping[str, Tensor]
    master: str | None = None
    federation: str | None = None
    round: int = 0

    def open(self, device: str) -> AdaptedModel:
        """The model, in evaluation mode.

        Raises:
            ModelError: it cannot be opened for its task, or is none for it.
        """
        opened = open_model(self.folder, self.task, device=device)
        if opened.new_parameters and not self.lora.modules_to_save:
            raise ModelError(
                f"{self.folder}: no weights for {opened.new_parameters[0]}, so it has learned no labels",
                hint="a classifier's folder, or a master or PEFT adapter with its head",
            )
        adapted = AdaptedModel(opened.model, self.lora)
        adapted.load(self.values)
        return adapted


@dataclass(frozen=True, slots=True)
class Student:
    """A model that shall learn, and what its first master says. `master`: the sha256 of what it goes on from."""

    folder: Path
    model: ModelSpec
    values: Mapping[str, Tensor]
    seed: int
    base_weights: dict[str, WeightRole] | None
    master: str | None = None

    def open(self, device: str, compute: ComputeType) -> AdaptedModel:
        """The model with its adapter. Raises as `open_model`."""
        opened = open_model(self.folder, self.model.task, device=device, compute=compute)
        adapted = AdaptedModel(opened.model, self.model.lora, compute=compute)
        adapted.load(self.values)
        return adapted


def find_teacher(model: RefLike, *, base: RefLike | None, task: Mapping[str, object]) -> Teacher:
    """The teacher that a reference means.

    Args:
        model: a master, a PEFT folder (with `base`), or a plain transformers folder.
        base: where the base of the first two lies.
        task: fields of `TaskSpec` that were given; a master has its own, a classifier's folder its labels.

    Raises:
        UsageError: what does not go together, or is missing.
        InputError, ModelError, ArtifactError, LineageError: as the readers of the three.
    """
    ref = parse_ref(model)
    path = store.fetch(ref) if isinstance(ref, Path) or base is not None else store.fetch_model(ref)[0]
    if (path / PEFT_CONFIG).is_file():
        return _adapter_teacher(path, base, task)
    if path.is_dir():
        return _plain_teacher(path, base, task)
    if task:
        raise UsageError(f"{path}: a master says its task itself; leave out --{_spell(next(iter(task)))}")
    with TensorFile(path, MasterHeader) as file:
        spec = file.header.spec
        lora, values = owners_lora(spec), owners_adapter(file)
        folder = public_base_folder(spec.model.base, base)
        return Teacher(folder, spec.model.task, lora, values, file.sha256, federation_of(file), file.header.round)


def find_student(
    student: RefLike, *, base: RefLike | None, task: TaskSpec, lora: LoraSpec | None, private_base: bool, seed: int
) -> Student:
    """The student that a reference means: a master goes on from where it is, a base gets a new adapter.

    Args:
        student: a master, or the base model's folder or Hub address.
        base: where a master's base lies.
        task: of a new adapter; a master has its own.
        lora: of a new adapter; None for the defaults.
        private_base: as in `init`.
        seed: of a new adapter's values.

    Raises:
        UsageError: what does not go together.
        ModelError, ArtifactError, LineageError: as the readers of the two.
    """
    ref = parse_ref(student)
    if isinstance(ref, Path) and ref.is_file():
        if lora is not None or private_base:
            raise UsageError(f"{ref}: a master has its adapter already; options of a new one do not go with it")
        with TensorFile(ref, MasterHeader) as file:
            spec = file.header.spec
            values, model = owners_adapter(file), replace(spec.model, lora=owners_lora(spec))
            folder = public_base_folder(spec.model.base, base)
            return Student(folder, model, values, spec.seed, spec.base_weights, file.sha256)
    if base is not None:
        raise UsageError(f"--base goes with a student that is a master; {ref} is a base itself")
    return _new_student(ref, task, lora or LoraSpec(), private_base=private_base, seed=seed)


def _new_student(ref: Ref, task: TaskSpec, lora: LoraSpec, *, private_base: bool, seed: int) -> Student:
    folder, hub = store.fetch_model(ref)
    if not folder.is_dir():
        raise InputError(f"{ref}: no such master, and no model folder")
    public_address = str(hub) if hub is not None and not private_base else None
    base_spec = identify_base(folder, private=private_base, hub=public_address)
    lora = resolve_lora(folder, task, lora)
    return Student(
        folder,
        ModelSpec(base=base_spec, task=task, lora=lora),
        first_values(folder, task, lora, seed=seed),
        seed,
        weight_roles(folder, task, lora) if private_base else None,
    )


def _adapter_teacher(path: Path, base: RefLike | None, task: Mapping[str, object]) -> Teacher:
    if base is None:
        raise UsageError(f"--base is missing: {path} is a PEFT adapter", hint="--base FOLDER")
    adapter = read_peft(path)
    folder, _ = store.fetch_model(parse_ref(base))
    return Teacher(folder, _task_of(task, "--labels"), adapter.lora, adapter.values)


def _plain_teacher(path: Path, base: RefLike | None, task: Mapping[str, object]) -> Teacher:
    if base is not None:
        raise UsageError(f"--base goes with a master or a PEFT adapter; {path} is a model of its own")
    model_type_of(path)
    labels = {} if "labels" in task or task.get("kind") != "seq-cls" else {"labels": _labels_of(path)}
    return Teacher(path, _task_of({**task, **labels}, "--labels"), _NO_ADAPTER, {})


def _task_of(fields: Mapping[str, object], flag: str) -> TaskSpec:
    if fields.get("kind") == "seq-cls" and not fields.get("labels"):
        raise UsageError(f"{flag} is missing: a classifier's labels", hint="--labels normal,anomaly")
    return read_record(fields, TaskSpec, source="the task", error=UsageError)


def _labels_of(folder: Path) -> tuple[str, ...]:
    """The labels that a classifier's configuration names, in order; none where it names none."""
    try:
        table = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("id2label") or {}
        return tuple(str(table[str(number)]) for number in range(len(table)))
    except (OSError, ValueError, KeyError, AttributeError):
        return ()


def _spell(field: str) -> str:
    return {"kind": "task"}.get(field, field.replace("_", "-"))
