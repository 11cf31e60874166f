"""The models that a master stands for: the base without adapter, the proxy that clients get, the central model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import LoraSpec, ModelSpec, QuantSpec
from fedlpp_cli.steps.proxy_masks import drawn_masks, masked


@dataclass(frozen=True, slots=True)
class MasterModels:
    """A master and what its models sit on. `full`: the base; `seen`: what clients see of it, the same if it is public.

    `quantize`: how the proxy is rounded; `mask`: what clients do not get of it; `client`: whose proxy is looked at,
    where each gets another, None where nobody's name is known.
    """

    file: TensorFile[MasterHeader]
    full: Path
    seen: Path
    quantize: QuantSpec
    mask: MaskSpec = field(default_factory=MaskSpec)
    client: str | None = None

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

    def proxy(self, client: str | None = None) -> Mapping[str, Tensor]:
        """What a client gets, None for `client`; without anybody's name what all of them have together."""
        client, values = client or self.client, self._rounded()
        if not self.mask.hides or (self.mask.client and client is None):
            return values
        masks = drawn_masks(self.file, components_of(self.file), self.mask, client)
        return masked(values, masks, scaling=self.mask.scaling)

    def _rounded(self) -> dict[str, Tensor]:
        """The proxy without masks; factors A that clients draw are what they are."""
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
