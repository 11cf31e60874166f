"""One base model that stays open while many clients train, each as if it had opened the model itself.

Nothing may leak from client to client: the adapter's values are set anew, the optimizer and all random streams are
each client's own, and whatever else training leaves in the model's modules (running means in buffers, counters in
attributes) is put back.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.out_of_memory import memory_errors
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.compute import ComputeChoice, ComputeSpec
from fedlpp_cli.steps.client_state import ClientState
from fedlpp_cli.steps.computing import choose_for, open_chosen, told
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.local_training import LocalRound, TrainedUpdate, open_round, open_task, train_update
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.shares import Share


class Resident:
    """Opens the model with the first package, and again only if a later one asks for another model."""

    def __init__(
        self, base: RefLike | None, columns: Mapping[str, str], device: str, compute: ComputeSpec | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            base: where a public base lies; a private one is in the packages.
            columns: field name to column name, where the data calls them otherwise.
            device: "auto", "cpu", "cuda" or "split".
            compute: how to compute; chosen from the machine where nothing is asked for.
        """
        self._compute = compute or ComputeSpec()
        self._base, self._columns, self._device = base, columns, device
        self._key: object = None
        self._opened: tuple[Task, AdaptedModel, ModuleState, ComputeChoice] | None = None

    def open_round(self, package: OpenPackage, on_progress: Progress) -> LocalRound:
        """The package's round, on the resident model.

        Raises:
            ModelError: a base that is not the agreed one, or cannot be opened.
            ArtifactError: a private base or a proxy that is not sound.
        """
        # The same base, adapter and arithmetic: what was checked and opened for an earlier round is what is needed.
        manifest = package.folder.header
        key = (package.proxy.header.spec.model, manifest.parent("base"), manifest.spec.train.compute)
        if self._opened is None or key != self._key:
            self._opened, self._key = None, key
            on_progress("checking base model", 0, 0)
            folder = package.base_folder(self._base)
            task = open_task(package, folder, self._columns)
            # Clients' data are not known yet: the task's length is the longest that a text can have.
            choice = choose_for(package, folder, self._compute, device=self._device, max_length=task.spec.max_length)
            on_progress(told(choice), 0, 0)
            adapted, choice = open_chosen(package, folder, choice)
            self._opened = task, adapted, ModuleState(adapted.model), choice
        task, adapted, _, _ = self._opened
        share = Share(self._compute.micro_batch)
        return open_round(package, task, adapted, share=share, batching=self._compute.batching)

    def train(
        self,
        local: LocalRound,
        client: str,
        examples: Sequence[Example],
        state: ClientState | None,
        on_progress: Progress,
    ) -> TrainedUpdate:
        """As `train_update`, from the state in which the model was opened.

        Raises:
            MemoryLimitError: memory ran out.
        """
        assert self._opened is not None  # noqa: S101  # `local` came from `open_round`
        _, _, modules, choice = self._opened
        modules.restore()
        with memory_errors(choice, doing="training", batch_size=local.package.folder.header.spec.train.batch_size):
            return train_update(local, client, examples, state, on_progress)


class ModuleState:
    """What the modules of a frozen model hold beside parameters, to be put back: attributes, and tensors among them."""

    def __init__(self, model: nn.Module) -> None:
        """Note it down; buffers are copied."""
        self._attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
        held = [value for _, attributes, buffers in self._attributes for value in _tensors(attributes, buffers)]
        self._values = [(tensor, tensor.clone()) for tensor in {id(one): one for one in held}.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back as it was."""
        for module, attributes, buffers in self._attributes:
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(buffers)  # noqa: SLF001
            vars(module).clear()
            vars(module).update(attributes)
        for tensor, value in self._values:
            tensor.copy_(value)


def _tensors(attributes: Mapping[str, Any], buffers: Mapping[str, Tensor | None]) -> list[Tensor]:
    return [one for one in (*attributes.values(), *buffers.values()) if isinstance(one, Tensor)]
