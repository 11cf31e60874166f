"""A sound update and what it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.aggregation.stack import Update
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import ProxyHeader


@dataclass(frozen=True, slots=True)
class Received:
    """An open update that has passed all checks, the proxy in its own package, and the update's norm."""

    update: Update
    proxy: TensorFile[ProxyHeader]
    norm: float

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Component to shape in the update: what the round trains; factors may have a lower rank than the master's."""
        return update_shapes(self.proxy.header.spec)

    @property
    def started_shapes(self) -> Mapping[str, Shape]:
        """Component to shape in the proxy."""
        return self.proxy.header.spec.shapes

    @property
    def rank(self) -> int | None:
        """Of the factors that were trained; None where there are none."""
        lora = self.proxy.header.spec.model.lora
        return lora.rank if lora.target_modules else None
