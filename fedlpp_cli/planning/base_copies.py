"""What clients would see of a private base, in each format that is compared."""

from dataclasses import dataclass, field
from pathlib import Path

from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.models.quantized_base import plan_quantized_base, quantize_base
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import BaseQuantSpec
from fedlpp_cli.steps.init import init
from fedlpp_cli.steps.sizes import planned_base_groups


@dataclass(slots=True, kw_only=True)
class BaseCopies:
    """Copies of the base in `folder`, made in `work`, a private folder, when they are first asked for."""

    federation: FederationSpec
    folder: Path
    work: Path
    on_progress: Progress = silent
    _master: tuple[MasterSpec, str] | None = field(default=None, init=False)
    _made: dict[BaseQuantSpec, Path] = field(default_factory=dict, init=False)

    def n_bytes(self, spec: BaseQuantSpec) -> int:
        """Size of all its weights, codes and scales.

        Raises:
            ModelError, SecrecyError: as `plan_quantized_base`.
        """
        groups = planned_base_groups(plan_quantized_base(self.folder, self._private_master()[0], spec)[0])
        return sum(group.n_bytes for group in groups)

    def path(self, spec: BaseQuantSpec) -> Path:
        """Where the copy of that format lies. Raises as `quantize_base`."""
        if spec not in self._made:
            place = self.work / f"base-{len(self._made)}"
            master, federation = self._private_master()
            quantize_base(self.folder, master, federation, spec, place, on_progress=self.on_progress)
            self._made[spec] = place
        return self._made[spec]

    def _private_master(self) -> tuple[MasterSpec, str]:
        """That of round 0 of a federation whose base is private: it knows what its weights are to the model."""
        if self._master is None:
            place, of = self.work / "private.safetensors", self.federation
            made = init(self.folder, out=place, task=of.task, lora=of.lora, private_base=True, seed=of.seed)
            with TensorFile(place, MasterHeader) as master:
                self._master = master.header.spec, made.federation
        return self._master
