"""The models that a master stands for: the base without adapter, the proxy that clients get, the central model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedlpp_cli.adapters.drawn import drawn_of
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.owners_adapter import owners_adapter, owners_lora
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.models.first_values import first_values
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import LoraSpec, ModelSpec, QuantSpec


@dataclass(frozen=True, slots=True)
class MasterModels:
    """A master and what its models sit on. `full`: the base; `seen`: what clients see of it, the same if it is public.

    `quantize`: how the proxy is rounded.
    """

    file: TensorFile[MasterHeader]
    full: Path
    seen: Path
    quantize: QuantSpec

    @property
    def model(self) -> ModelSpec:
        """Base, task and adapter; the adapter is the one that clients get."""
        return self.file.header.spec.model

    @property
    def central_lora(self) -> LoraSpec:
        """The adapter of the central model, with room for what is withheld from clients."""
        return owners_lora(self.file.header.spec)

    def first(self) -> Mapping[str, Tensor]:
        """The adapter before any training, which changes nothing."""
        return first_values(self.full, self.model.task, self.model.lora, seed=self.file.header.spec.seed)

    def rounded(self) -> Mapping[str, Tensor]:
        """The proxy; factors A that clients draw are what they are."""
        is_drawn = method_of(self.file.header, source=str(self.file.path)).draws_a and drawn_of(self.file) is not None
        return {
            name: self.file.read(name)
            if is_drawn and factor_of(name) == "A"
            else round_tensor(self.file.read(name), self.quantize, name=name)
            for name in components_of(self.file)
        }

    def central(self) -> Mapping[str, Tensor]:
        """The owner's adapter, of `central_lora`."""
        return owners_adapter(self.file)
