"""Open base models: from local files, safetensors only, never with code of their own."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedlpp_cli.errors import ModelError
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.specs import ComputeType, TaskSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES: dict[ComputeType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A base model and the parameters that its files did not have: the new head of a classifier."""

    model: "PreTrainedModel"
    new_parameters: tuple[str, ...]


def open_model(
    folder: Path,
    task: TaskSpec,
    *,
    compute: ComputeType = "fp32",
    device: str = "cpu",
    quantization_config: Any | None = None,
    keep_quantized: bool = False,
) -> OpenedModel:
    """Open the model in `folder` for a task, frozen and in evaluation mode.

    4-bit weights stay as they are on a GPU, and are made dense on a CPU.

    Args:
        folder: a transformers model folder.
        task: decides between language model and classifier, and the number of labels.
        compute: dtype of weights and arithmetic.
        device: "cpu", "cuda", or "meta" for shapes without values.
        quantization_config: a transformers quantization to apply while loading.
        keep_quantized: leave 4-bit weights as they are on a CPU too.

    Raises:
        ModelError: the folder holds no model that transformers can open for the task.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {
        "dtype": DTYPES[compute],
        "device_map": {"": device},
        "trust_remote_code": False,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    if quantization_config is not None:
        # Rounded from bfloat16, whatever they are computed in later: one private base has one rounding.
        options |= {"quantization_config": quantization_config, "dtype": torch.bfloat16}
    if task.kind == "seq-cls":
        options |= {
            "num_labels": len(task.labels),
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: index for index, label in enumerate(task.labels)},
        }
    auto = AutoModelForCausalLM if task.kind == "causal-lm" else AutoModelForSequenceClassification
    with quiet_libraries(), _model_errors(folder):
        model, info = auto.from_pretrained(folder, **options)
        if device == "cpu" and not keep_quantized and getattr(model, "is_quantized", False):
            # Dense weights are several times faster here than bitsandbytes' CPU kernels, which also differ between
            # processors and refuse some widths.
            model = model.dequantize().to(DTYPES[compute])
    if task.kind == "causal-lm" and info["missing_keys"]:
        raise ModelError(f"{folder}: no weights for {min(info['missing_keys'])}, not a language model")
    model.requires_grad_(False)
    model.eval()
    return OpenedModel(model, tuple(sorted(info["missing_keys"])))


def open_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Open the tokenizer in `folder`, with a padding token.

    Raises:
        ModelError: the folder has no tokenizer.
    """
    from transformers import AutoTokenizer

    with quiet_libraries(), _model_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{folder}: the tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextlib.contextmanager
def _model_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: transformers cannot open it ({reason})") from error
