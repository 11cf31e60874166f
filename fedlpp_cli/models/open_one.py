"""One base model with an adapter on it that stays open until another one is asked for."""

from dataclasses import dataclass, field
from pathlib import Path

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.specs import LoraSpec, TaskSpec


@dataclass(slots=True)
class OpenOne:
    """At most one model is in memory."""

    task: TaskSpec
    device: str
    on_progress: Progress = silent
    _key: tuple[Path, LoraSpec] | None = field(default=None, init=False)
    _adapted: AdaptedModel | None = field(default=None, init=False)

    def at(self, folder: Path, lora: LoraSpec) -> AdaptedModel:
        """The model in the folder; its adapter has the values that were set last.

        Raises:
            ModelError: it cannot be opened, or has not the adapter's layers.
        """
        if self._adapted is None or self._key != (folder, lora):
            self._adapted = None  # let the last model go before the next one comes
            self.on_progress("opening model", 0, 0)
            opened = open_model(folder, self.task, device=self.device)
            self._adapted, self._key = AdaptedModel(opened.model, lora), (folder, lora)
        return self._adapted
