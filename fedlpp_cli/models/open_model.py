"""Open base models: from local files, safetensors only, never with code of their own."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.out_of_memory import is_out_of_memory
from fedlpp_cli.models.packed_base import dense_weights, packed_base_spec
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.headers import BaseArtifactSpec
from fedlpp_cli.records.specs import ComputeType, TaskSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES: dict[ComputeType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A base model as it was opened.

    `new_parameters`: those that its files did not have, the head of a new classifier. `unused`: the files' tensors that
    it has no use for.
    """

    model: "PreTrainedModel"
    new_parameters: tuple[str, ...]
    unused: frozenset[str]


def open_model(
    folder: Path,
    task: TaskSpec,
    *,
    compute: ComputeType = "fp32",
    device: str = "cpu",
    quantized: bool | None = None,
    unquantized: Sequence[str] = (),
) -> OpenedModel:
    """Open the model in `folder` for a task, frozen and in evaluation mode.

    A private base's weights in bitsandbytes' layout stay as they are on a GPU, and are made dense on a CPU, unless
    `quantized` says otherwise; packed ones are made dense.

    Args:
        folder: a transformers model folder, or a base artifact.
        task: decides between language model and classifier, and the number of labels.
        compute: dtype of weights and arithmetic.
        device: "cpu", "cuda", "split" over all GPUs, or "meta" for shapes without values.
        quantized: with True linear layers run on bitsandbytes' kernels, rounded to NF4 here if they are not rounded
            yet; with False they are dense.
        unquantized: modules that are not rounded here, because they are trained whole.

    Raises:
        ModelError: the folder holds no model that transformers can open for the task.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {
        "dtype": DTYPES[compute],
        "device_map": "auto" if device == "split" else {"": device},
        "trust_remote_code": False,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    labels: dict[str, Any] = {}
    if task.kind == "seq-cls":
        labels = {
            "num_labels": len(task.labels),
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: index for index, label in enumerate(task.labels)},
        }
    auto = AutoModelForCausalLM if task.kind == "causal-lm" else AutoModelForSequenceClassification
    packed = packed_base_spec(folder)
    if quantized and packed is None and not _comes_quantized(folder):
        options["quantization_config"] = _nf4(DTYPES[compute], unquantized)
    with quiet_libraries(), _model_errors(folder):
        if packed is not None:
            model, info = _open_packed(folder, packed, task, labels, options)
        else:
            model, info = auto.from_pretrained(folder, **options, **labels)
        dense = device == "cpu" if quantized is None else not quantized
        if dense and getattr(model, "is_quantized", False):
            # Dense weights are several times faster here than bitsandbytes' CPU kernels, which also differ between
            # processors and refuse some widths.
            model = model.dequantize().to(DTYPES[compute])
    if {"cpu", "disk"} & set(map(str, getattr(model, "hf_device_map", {}).values())) and device == "split":
        raise ModelError(f"{folder}: does not fit on the GPUs of this machine", hint="--compute bnb-4bit")
    if task.kind == "causal-lm" and info["missing_keys"]:
        raise ModelError(f"{folder}: no weights for {min(info['missing_keys'])}, not a language model")
    model.requires_grad_(False)
    model.eval()
    return OpenedModel(model, tuple(sorted(info["missing_keys"])), frozenset(info["unexpected_keys"]))


def _open_packed(
    folder: Path, spec: BaseArtifactSpec, task: TaskSpec, labels: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """As from_pretrained: the automatic classes want a folder; the class that they would choose takes tensors."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **labels)
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if task.kind == "causal-lm" else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    weights = dense_weights(folder, spec, options["dtype"])
    return mapping[type(config)].from_pretrained(None, config=config, state_dict=weights, **options)


def _comes_quantized(folder: Path) -> bool:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return getattr(config, "quantization_config", None) is not None


def _nf4(dtype: torch.dtype, unquantized: Sequence[str]) -> Any:
    """How transformers rounds linear layers while it reads them, the output layer left out."""
    from transformers import BitsAndBytesConfig

    skipped = [*unquantized, "lm_head"] if unquantized else None  # None: transformers looks for the output layer
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=skipped
    )


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
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: transformers cannot open it ({reason})") from error
