"""How large a base model is, by the headers of its files. Loads no torch."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.base_folder import CONFIG
from fedlpp_cli.models.base_tensors import base_tensors
from fedlpp_cli.models.packed_base import packed_base_spec
from fedlpp_cli.records.headers import BaseArtifactSpec
from fedlpp_cli.records.specs import ComputeType

# `plain`: floating-point weights. The others are how private bases come.
Layout = Literal["plain", "bnb-4bit", "bnb-8bit", "packed"]

BYTES: Final[dict[ComputeType, int]] = {"fp32": 4, "bf16": 2}
_SIDE_TENSORS: Final = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")
# A 4-bit code, and a float32 scale for 64 of them.
_BYTES_4BIT: Final = 0.5 + 4 / 64


@dataclass(frozen=True, slots=True)
class BaseSize:
    """Numbers of weights, `n_linear` of them in linear layers other than the output; `n_quantized_bytes` as they come.

    `n_layers`, `hidden`, `inner` and `vocabulary` are the configuration's, for estimates; 0 where it does not say.
    """

    layout: Layout
    n_parameters: int
    n_linear: int
    n_quantized_bytes: int
    n_layers: int
    hidden: int
    inner: int
    vocabulary: int

    def dense_bytes(self, arithmetic: ComputeType) -> int:
        """Of all weights in that arithmetic."""
        return self.n_parameters * BYTES[arithmetic]

    def quantized_bytes(self, arithmetic: ComputeType) -> int:
        """With linear layers in bitsandbytes' layout: as they come, or rounded to 4 bits when opened."""
        if self.layout != "plain":
            return self.n_quantized_bytes
        return int((self.n_parameters - self.n_linear) * BYTES[arithmetic] + self.n_linear * _BYTES_4BIT)


def base_size(folder: Path) -> BaseSize:
    """Look at the headers.

    Raises:
        ModelError, ArtifactError: files that are no model's.
    """
    config = _config(folder)
    hidden = _number(config, "hidden_size", "n_embd", "d_model", "dim")
    vocabulary = _number(config, "vocab_size")
    layout, shapes, n_bytes = _tensors(folder, config)
    linear = [shape for shape in shapes.values() if len(shape) == 2 and vocabulary not in shape]
    return BaseSize(
        layout=layout,
        n_parameters=sum(math.prod(shape) for shape in shapes.values()),
        n_linear=sum(math.prod(shape) for shape in linear),
        n_quantized_bytes=n_bytes,
        n_layers=_number(config, "num_hidden_layers", "n_layer", "n_layers"),
        hidden=hidden,
        inner=_number(config, "intermediate_size", "n_inner", "hidden_dim", "ffn_dim") or 4 * hidden,
        vocabulary=vocabulary,
    )


def _tensors(folder: Path, config: dict[str, Any]) -> tuple[Layout, dict[str, tuple[int, ...]], int]:
    packed = packed_base_spec(folder)
    if packed is not None:
        return "packed", _packed_shapes(folder, packed), 0
    found = {name: tensor.info for name, tensor in base_tensors(folder).items()}
    n_bytes = sum(info.n_bytes for info in found.values())
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return "plain", {name: info.shape for name, info in found.items()}, n_bytes
    weights = {name: info for name, info in found.items() if not _is_beside(name)}
    # Two codes in a byte.
    shapes = {name: (2, *info.shape) if f"{name}.absmax" in found else info.shape for name, info in weights.items()}
    return ("bnb-8bit" if quantization.get("load_in_8bit") else "bnb-4bit"), shapes, n_bytes


def _packed_shapes(folder: Path, spec: BaseArtifactSpec) -> dict[str, tuple[int, ...]]:
    from fedlpp_cli.artifact.safetensors_file import SafetensorsFile

    shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in spec.shapes.items()}
    for path in sorted(folder.glob("*.safetensors")):
        with SafetensorsFile(path) as file:
            shapes |= {name: info.shape for name, info in file.tensors.items() if name in spec.unquantized}
    return shapes


def _is_beside(name: str) -> bool:
    """What bitsandbytes keeps beside a weight."""
    return name.endswith(_SIDE_TENSORS) or ".quant_state." in name


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG}: not a model configuration ({error})") from None
    # A model of several parts keeps the language model's numbers apart.
    return {**config, **config.get("text_config", {})} if isinstance(config, dict) else {}


def _number(config: dict[str, Any], *names: str) -> int:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)
