"""How a client computes: chosen from the machine, the package's base opened accordingly, a training tried out."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.base_size import BaseSize, base_size
from fedlpp_cli.models.compute_choice import Work, choose_compute
from fedlpp_cli.models.free_memory import free_memory
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.out_of_memory import memory_errors
from fedlpp_cli.models.sharded_base import shard_base
from fedlpp_cli.processes import device_of_process, n_processes
from fedlpp_cli.records.compute import ComputeChoice, ComputeSpec, TrainPlan
from fedlpp_cli.steps.inputs import choose_device
from fedlpp_cli.steps.local_training import LocalRound
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.steps.private_training import PrivateTraining
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.schedule import n_steps
from fedlpp_cli.training.trial import count_tokens, try_steps


def choose_for(package: OpenPackage, folder: Path, wish: ComputeSpec, *, device: str, max_length: int) -> ComputeChoice:
    """What to open the base in `folder` with.

    Args:
        package: of the round.
        folder: with the base model.
        wish: what the client asks for.
        device: "auto", "cpu", "cuda" or "split".
        max_length: tokens of the longest example.

    Raises:
        UsageError: a device that is not there, or bnb-4bit for a base that cannot be had like that.
        ModelError: a base whose files are no model's.
    """
    spec, recipe = package.proxy.header.spec, package.folder.header.spec.train
    chosen = device_of_process(choose_device(device))
    own = -(-recipe.batch_size // n_processes())
    at_once = min(wish.micro_batch or own, own)
    n_trainable = sum(math.prod(shape) for shape in spec.shapes.values())
    return choose_compute(
        wish,
        base_size(folder),
        Work(n_trainable, at_once * max_length),
        arithmetic=recipe.compute,
        device=chosen,
        free=free_memory(chosen),
        n_processes=n_processes(),
    )


def open_chosen(package: OpenPackage, folder: Path, choice: ComputeChoice) -> tuple[AdaptedModel, ComputeChoice]:
    """The base model in the folder, with the package's adapter on it, whose values are anything; what attends is noted.

    Raises:
        ModelError: it cannot be opened, or has no such layers.
        MemoryLimitError: no memory for it.
    """
    spec, recipe = package.proxy.header.spec.model, package.folder.header.spec.train
    with memory_errors(choice, doing="opening the base model", batch_size=recipe.batch_size):
        base = open_model(
            folder,
            spec.task,
            compute=choice.arithmetic,
            device="cpu" if choice.shard_base else choice.device,
            quantized=choice.backend.startswith("bnb"),
            unquantized=spec.lora.modules_to_save,
        ).model
        adapted = AdaptedModel(base, spec.lora, compute=choice.arithmetic)
        if choice.shard_base:
            shard_base(adapted, choice.device)
    if choice.gradient_checkpointing:
        adapted.checkpoint_gradients()
    return adapted, replace(choice, attention=getattr(base.config, "_attn_implementation", None))


def told(choice: ComputeChoice) -> str:
    """What was chosen, for whoever looks."""
    return f"opening base model, {choice.backend} ({choice.reason})"


def plan_training(
    package: OpenPackage, folder: Path, choice: ComputeChoice, examples: Sequence[Example], client: str
) -> TrainPlan:
    """What can be said without opening the model.

    Raises:
        ModelError: a base whose files are no model's.
    """
    manifest, spec = package.folder.header, package.proxy.header.spec
    size = base_size(folder)
    n_tokens, _ = count_tokens(examples, manifest.spec.train, (manifest.federation, manifest.round, client))
    return TrainPlan(
        n_base_parameters=size.n_parameters,
        n_base_bytes=_base_bytes(size, choice),
        n_tokens=n_tokens,
        n_trial_steps=0,
        memory_peak=None,
        step_seconds=None,
        total_seconds=None,
        bytes_down=sum(file.size for file in manifest.files) + (package.folder.path / MANIFEST).stat().st_size,
        bytes_down_base=0
        if spec.model.base.private
        else sum((folder / name).stat().st_size for name in spec.model.base.files),
        bytes_up=layout_bytes(proxy_layout(update_shapes(spec), manifest.spec.update)),
    )


def tried(
    plan: TrainPlan,
    local: LocalRound,
    choice: ComputeChoice,
    examples: Sequence[Example],
    client: str,
    wish: ComputeSpec,
    private: PrivateTraining | None = None,
) -> TrainPlan:
    """The plan, with what real steps take; the adapter is the proxy's afterwards, and nothing was charged.

    Raises:
        GateError, MemoryLimitError: what the training would end in.
    """
    manifest = local.package.folder.header
    recipe = manifest.spec.train
    local.adapted.load(local.start)
    with memory_errors(choice, doing="training", batch_size=recipe.batch_size), ExitStack() as parts:
        gradient = None
        if private is not None:
            made = private.parts(
                local.adapted,
                local.task,
                recipe,
                len(examples),
                share=local.share,
                make_batches=local.make_batches,
            )
            gradient, _ = parts.enter_context(made)
        trial = try_steps(
            local.adapted,
            local.task,
            examples,
            recipe,
            n_trials=wish.trial_steps,
            share=local.share,
            make_batches=local.make_batches,
            gradient=gradient,
            factors=local.package.proxy.header.spec.factors,
        )
    labels = (manifest.federation, manifest.round, client)
    _, relative = count_tokens(examples, recipe, labels, padded=wish.batching == "padded")
    return replace(
        plan,
        n_trial_steps=wish.trial_steps,
        memory_peak=trial.memory_peak,
        step_seconds=trial.step_seconds,
        total_seconds=trial.step_seconds * n_steps(recipe, len(examples)) * relative,
    )


def _base_bytes(size: BaseSize, choice: ComputeChoice) -> int:
    if choice.backend.startswith("bnb"):
        return size.quantized_bytes(choice.arithmetic)
    return size.dense_bytes(choice.arithmetic)
