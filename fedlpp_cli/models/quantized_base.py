"""A private base as clients get it: bitsandbytes' 4-bit weights in transformers' own layout.

It is made once per federation, so that nobody can average several roundings of the same weights. What is not a
linear layer (embeddings, norms, biases, the output layer) is kept in bfloat16 and listed in the manifest.
"""

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import FolderArtifact, open_folder, write_folder
from fedlpp_cli.artifact.tensor_header import read_infos
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.models.base_folder import CONFIG, TOKENIZER_FILES, check_base
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.headers import BaseArtifactSpec, BaseHeader, FileEntry
from fedlpp_cli.records.specs import BaseQuantSpec, LoraSpec, ModelSpec, TaskSpec
from fedlpp_cli.refs import Ref

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

WEIGHTS: Final = "model.safetensors"
QUANT_STATE: Final = ".quant_state.bitsandbytes__"


def provide_quantized_base(
    model: ModelSpec,
    federation: str,
    spec: BaseQuantSpec,
    *,
    source: Ref | None,
    out: Ref,
    on_progress: Progress = silent,
) -> str:
    """The sha256 of the quantized base of a federation, made at `out` unless it is there already.

    Args:
        model: what the federation agreed on.
        federation: its name.
        spec: format of the 4-bit weights.
        source: the private base itself; needed only when it has to be rounded.
        out: where the artifact goes, or lies.
        on_progress: told what is going on.

    Raises:
        UsageError: nothing at `out`, and no `source`.
        LineageError: what lies at `out` belongs to another federation or has another format.
        ModelError: `source` is not the federation's base.
    """
    if store.exists(out):
        return _check_existing(open_folder(store.fetch(out), BaseHeader), federation, spec).sha256
    if source is None:
        raise UsageError("--base is missing: the private base has not been quantized yet", hint="--base FOLDER")
    folder, _ = store.fetch_model(source)
    check_base(folder, model.base)
    on_progress("quantizing base model", 0, 0)
    with (
        store.destination(out, message="Quantized base model") as place,
        tempfile.TemporaryDirectory(prefix="fedlpp-") as scratch,
    ):
        unquantized = _save_quantized(folder, model, spec, Path(scratch))
        contents: dict[str, bytes | Path] = {name: Path(scratch) / name for name in (CONFIG, WEIGHTS)}
        contents |= {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}

        def manifest(files: tuple[FileEntry, ...]) -> BaseHeader:
            return BaseHeader(
                federation=federation,
                round=0,
                parents={"master": (federation,)},
                spec=BaseArtifactSpec(quantize=spec, model_type=model.base.model_type, unquantized=unquantized),
                files=files,
            )

        return write_folder(place.path, contents, manifest)


def bitsandbytes_config(spec: BaseQuantSpec, *, keep: list[str]) -> "BitsAndBytesConfig":
    """How transformers is asked for the same 4-bit weights. `keep`: modules that stay in bfloat16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.format,
        bnb_4bit_use_double_quant=spec.double,
        bnb_4bit_compute_dtype="float32",
        llm_int8_skip_modules=keep,
    )


def _save_quantized(folder: Path, model: ModelSpec, spec: BaseQuantSpec, scratch: Path) -> dict[str, str]:
    """Write configuration and weights into `scratch`; name to dtype of the tensors that are not 4-bit."""
    keep = modules_to_keep(folder, model.task, model.lora)
    config = bitsandbytes_config(spec, keep=keep)
    opened = open_model(folder, model.task, compute="bf16", quantization_config=config, keep_quantized=True)
    with quiet_libraries():
        opened.model.save_pretrained(scratch, max_shard_size="1000GB")
    _drop_tensors(scratch / WEIGHTS, opened.new_parameters)
    _write_config(opened.model, spec, keep, scratch)
    infos = read_infos(scratch / WEIGHTS)
    return {
        name: info.dtype
        for name, info in infos.items()
        if not any(name.startswith(stem) for stem in _quantized_weights(infos))
    }


def _drop_tensors(weights: Path, names: Collection[str]) -> None:
    """A new head is the federation's to train; it travels with the adapter, not with the base."""
    from safetensors.torch import load_file, save_file

    if names:
        kept = {name: tensor for name, tensor in load_file(weights).items() if name not in names}
        weights.unlink()  # never write over a file that may still be mapped
        save_file(kept, weights, metadata={"format": "pt"})


def modules_to_keep(folder: Path, task: TaskSpec, lora: LoraSpec) -> list[str]:
    """Modules that are not rounded: the output layer, and what the federation trains whole."""
    model = open_model(folder, task, device="meta").model
    output = model.get_output_embeddings()
    outputs = [name for name, module in model.named_modules() if output is not None and module is output]
    return sorted({*outputs, *lora.modules_to_save})


def _quantized_weights(names: Mapping[str, Any]) -> set[str]:
    return {name.partition(QUANT_STATE)[0] for name in names if QUANT_STATE in name}


def _write_config(model: "PreTrainedModel", spec: BaseQuantSpec, keep: list[str], scratch: Path) -> None:
    """The configuration, without a trace of where the model came from, and only what a client may trust."""
    config = model.config.to_dict()
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    config["architectures"] = [type(model).__name__]
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": spec.format,
        "bnb_4bit_use_double_quant": spec.double,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": keep,
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (scratch / CONFIG).write_text(text + "\n", encoding="utf-8")


def _check_existing(
    base: FolderArtifact[BaseHeader], federation: str, spec: BaseQuantSpec
) -> FolderArtifact[BaseHeader]:
    if base.header.federation != federation:
        raise LineageError(f"{base.path}: the quantized base of another federation, {base.header.federation!r:.14}…")
    if base.header.spec.quantize != spec:
        raise LineageError(
            f"{base.path}: quantized to {base.header.spec.quantize}, asked for is {spec}",
            hint="a base is rounded once per federation; several roundings could be averaged",
        )
    return base
