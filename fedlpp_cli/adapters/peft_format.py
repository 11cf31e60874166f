"""An adapter as PEFT writes and reads it: `adapter_config.json` and `adapter_model.safetensors`.

PEFT's name of a component is `base_model.model.<component>.weight` for a factor and `base_model.model.<component>`
for a parameter of a module that is trained whole.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from torch import Tensor

from fedlpp_cli.adapters.components import FACTOR_A, FACTOR_B, factor_a, factor_modules, module_of
from fedlpp_cli.adapters.ranks import lora_of_rank
from fedlpp_cli.artifact.tensor_header import read_infos
from fedlpp_cli.errors import InputError
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.record import read_record
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_TASK_TYPES: Final = {"causal-lm": "CAUSAL_LM", "seq-cls": "SEQ_CLS"}
# Settings under which the tensors mean something else than `s B A`; each with its harmless value.
_PLAIN: Final[dict[str, tuple[Any, ...]]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None,),
    "use_qalora": (False,),
    "alora_invocation_tokens": (None,),
}


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """A PEFT folder that has been read: where the adapter goes, and its float32 values by component name."""

    lora: LoraSpec
    values: dict[str, Tensor]


def write_peft(folder: Path, values: Mapping[str, Tensor], lora: LoraSpec, task: TaskSpec, hub: str | None) -> None:
    """Fill `folder` so that `PeftModel.from_pretrained(base, folder)` gives this adapter.

    Args:
        folder: an existing, empty folder.
        values: float32 by component name.
        lora: where the adapter goes; factors may have other ranks than its own, with its scaling.
        task: decides PEFT's `task_type`.
        hub: Hub address of a public base, which PEFT notes down; None notes nothing.
    """
    with quiet_libraries():
        from peft import LoraConfig
    from safetensors.torch import save_file

    ranks = _other_ranks(values, lora)
    config = LoraConfig(
        task_type=_TASK_TYPES[task.kind],
        base_model_name_or_path=hub.removeprefix("hf://").partition("@")[0] if hub else None,
        inference_mode=True,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        rank_pattern=ranks,
        alpha_pattern={pattern: lora_of_rank(lora, rank).alpha for pattern, rank in ranks.items()},
        target_modules=list(lora.target_modules),
        modules_to_save=list(lora.modules_to_save) or None,
        bias="none",
    )
    config.save_pretrained(str(folder))
    _sort_json(folder / CONFIG)
    tensors = {_peft_name(name): value.contiguous() for name, value in values.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_peft(folder: Path) -> PeftAdapter:
    """Read a PEFT folder; only plain LoRA, only safetensors.

    Raises:
        InputError: no such folder, another method than plain LoRA, or tensors that are no factors.
    """
    config = _read_config(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: no {WEIGHTS}; adapters in other formats can run code when they are opened")
    read_infos(folder / WEIGHTS)
    from safetensors.torch import load_file

    values = {
        _component_name(name, source=folder / WEIGHTS): value.float()
        for name, value in load_file(folder / WEIGHTS).items()
    }
    targets = sorted({module_of(name) for name in values if name.endswith((f".{FACTOR_A}", f".{FACTOR_B}"))})
    saved = tuple(config.get("modules_to_save") or ())
    lora = read_record(
        {
            "rank": config.get("r"),
            "alpha": float(config.get("lora_alpha", 0)),
            "dropout": float(config.get("lora_dropout", 0)),
            "use_rslora": config.get("use_rslora", False),
            "target_modules": tuple(targets),
            "modules_to_save": saved,
        },
        LoraSpec,
        source=str(folder / CONFIG),
        error=InputError,
    )
    return PeftAdapter(lora, dict(sorted(values.items())))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder}: no PEFT adapter lies there ({CONFIG}: {error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: not JSON ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{folder / CONFIG}: not a LoRA adapter")
    for name, plain in _PLAIN.items():
        if name in config and config[name] not in (*plain, None):
            raise InputError(f"{folder / CONFIG}: {name} is {config[name]!r:.60}; only plain LoRA can be imported")
    return config


def _other_ranks(values: Mapping[str, Tensor], lora: LoraSpec) -> dict[str, int]:
    """PEFT's pattern for a module to its rank, where that is not the adapter's.

    PEFT lets anything that ends with a dot stand in front of a pattern, unless it begins where the name does.
    """
    found = {module: len(values[factor_a(module)]) for module in factor_modules(values)}
    return {f"^{re.escape(module)}": rank for module, rank in found.items() if rank != lora.rank}


def _peft_name(component: str) -> str:
    is_factor = component.rpartition(".")[2] in (FACTOR_A, FACTOR_B)
    return f"{_PREFIX}{component}.weight" if is_factor else f"{_PREFIX}{component}"


def _component_name(peft_name: str, *, source: Path) -> str:
    if not peft_name.startswith(_PREFIX):
        raise InputError(f"{source}: tensor {peft_name!r} is not named as PEFT names a LoRA tensor")
    name = peft_name.removeprefix(_PREFIX).replace(".modules_to_save.", ".")
    stem = name.removesuffix(".weight")
    return stem if stem.rpartition(".")[2] in (FACTOR_A, FACTOR_B) else name


def _sort_json(path: Path) -> None:
    """PEFT writes sets in any order; equal adapters shall give equal bytes."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_bytes(msgspec.json.format(json.dumps(config, sort_keys=True).encode(), indent=2) + b"\n")
