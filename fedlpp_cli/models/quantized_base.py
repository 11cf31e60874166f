"""A private base as clients get it, every weight rounded. Loads no torch.

It is made once per federation, so that nobody can average several roundings of the same weights. Norms, biases and what
the owner names stay in 16 bits and are listed in the manifest. What is made is kept shard by shard: after a failure or
Ctrl-C the next run goes on with the shards that are missing.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from fedlpp_cli import canonical
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_bytes
from fedlpp_cli.artifact.folder import FolderArtifact, fill_folder, open_folder
from fedlpp_cli.artifact.whole import resumed_folder, sweep
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.models.base_folder import CONFIG, TOKENIZER_FILES, check_base, check_base_file
from fedlpp_cli.models.base_plan import BasePlan, plan_base, skipped_modules
from fedlpp_cli.models.base_tensors import INDEX, WEIGHTS, base_tensors, shards_of
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.headers import BaseArtifactSpec, BaseHeader, FileEntry
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.specs import BaseQuantSpec, ModelSpec, WeightRole
from fedlpp_cli.refs import Ref

Roles = dict[str, WeightRole]

PACKED: Final = "packed.safetensors"
# Of a configuration, what names the model or its makers, or would make transformers run code.
_DROPPED: Final = {"auto_map", "quantization_config", "transformers_version", "torch_dtype"}
_4BIT: Final = {"nf4", "fp4"}


def provide_quantized_base(
    master: MasterSpec,
    federation: str,
    spec: BaseQuantSpec,
    *,
    source: Ref | None,
    out: Ref,
    method: str = METHOD,
    on_progress: Progress = silent,
) -> str:
    """The sha256 of the quantized base of a federation, made at `out` unless it is there already.

    Args:
        master: what the owner knows.
        federation: its name.
        spec: how to round.
        source: the private base itself; needed only when it has to be rounded.
        out: where the artifact goes, or lies.
        method: of the federation.
        on_progress: told what is going on.

    Raises:
        UsageError: nothing at `out`, and no `source`.
        LineageError: what lies at `out` belongs to another federation or has another format.
        ModelError: `source` is not the federation's base, or has tensors that cannot be rounded.
        SecrecyError: a tensor would stay in 16 bits that nobody named.
        GateError: a value that is not finite.
    """
    if store.exists(out):
        return _check_existing(open_folder(store.fetch(out), BaseHeader), federation, spec).sha256
    if source is None:
        raise UsageError("--base is missing: the private base has not been quantized yet", hint="--base FOLDER")
    folder, _ = store.fetch_model(source)
    with store.destination(out, message="Quantized base model") as place:
        return quantize_base(folder, master, federation, spec, place.path, method=method, on_progress=on_progress)


def plan_quantized_base(folder: Path, master: MasterSpec, spec: BaseQuantSpec) -> tuple[BasePlan, Roles]:
    """What would become of each tensor, and what the tensors are to the model.

    Raises:
        ModelError, SecrecyError: as `plan_base`.
    """
    roles = master.base_weights
    if roles is None:
        from fedlpp_cli.models.weight_roles import weight_roles

        roles = weight_roles(folder, master.model.task, master.model.lora)
    plan = plan_base(
        base_tensors(folder), roles, spec,
        source=str(folder), seed=master.seed, modules=frozenset(master.model.lora.target_modules),
    )  # fmt: skip
    return plan, roles


def quantize_base(
    folder: Path,
    master: MasterSpec,
    federation: str,
    spec: BaseQuantSpec,
    target: Path,
    *,
    method: str = METHOD,
    on_progress: Progress = silent,
) -> str:
    """Round the base in `folder` into the artifact `target`; its sha256. Raises as `provide_quantized_base`."""
    model = master.model
    check_base(folder, model.base, skip=shards_of(folder))
    plan, roles = plan_quantized_base(folder, master, spec)
    key = sha256_of_bytes(canonical.encode([federation, to_plain(spec), model.base.files]))
    with resumed_folder(target, key) as draft:
        names = _write_shards(folder, plan, model, draft, on_progress)
        contents: dict[str, bytes | Path] = {name: draft / name for name in names}
        contents |= {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
        contents[CONFIG] = _config(folder, spec, skipped_modules(roles, model.lora.modules_to_save, spec))
        if len(names) > 1 and spec.bits is None:
            contents[INDEX] = _index(plan, names)

        def manifest(files: tuple[FileEntry, ...]) -> BaseHeader:
            return BaseHeader(
                federation=federation,
                round=0,
                method=method,
                parents={"master": (federation,)},
                spec=BaseArtifactSpec(
                    quantize=spec,
                    model_type=model.base.model_type,
                    unquantized=plan.unquantized,
                    shapes=plan.shapes,
                    masked=plan.masked,
                ),
                files=files,
            )

        return fill_folder(draft, contents, manifest, target=target)


def _write_shards(folder: Path, plan: BasePlan, model: ModelSpec, draft: Path, on_progress: Progress) -> list[str]:
    """Write the shards that are not there yet; names of all."""
    shards = plan.written
    names = [_shard_name(number, len(shards), plan.spec) for number in range(1, len(shards) + 1)]
    n_jobs, done = sum(len(tensors) + 1 for tensors in shards.values()), 0  # and each shard's sha256

    def on_jobs(count: int) -> None:
        nonlocal done
        done += count
        on_progress("quantizing base model", done, n_jobs)

    on_jobs(0)
    with ThreadPoolExecutor(_n_threads()) as pool:
        for name, (shard, tensors) in zip(names, shards.items(), strict=True):
            sweep(draft / name)
            if (draft / name).is_file():
                on_jobs(len(tensors) + 1)
                continue
            from fedlpp_cli.models.base_shards import write_shard  # takes a compiler's library

            write_shard(
                folder / shard, tensors, draft / name, plan.spec, pool,
                check=partial(check_base_file, folder, shard, model.base), on_done=partial(on_jobs, 1),
            )  # fmt: skip
    return names


def _n_threads() -> int:
    """As many as torch would take."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else len(os.sched_getaffinity(0))


def _shard_name(number: int, count: int, spec: BaseQuantSpec) -> str:
    name = WEIGHTS if spec.bits is None else PACKED
    return name if count == 1 else name.replace(".", f"-{number:05d}-of-{count:05d}.", 1)


def _index(plan: BasePlan, names: list[str]) -> bytes:
    """The list of which tensor lies where, as transformers reads it."""
    weight_map = {
        name: shard
        for shard, tensors in zip(names, plan.written.values(), strict=True)
        for tensor in tensors
        for name in tensor.layout(plan.spec)
    }
    index = {"metadata": {"total_size": plan.n_bytes}, "weight_map": weight_map}
    return _json(index)


def _config(folder: Path, spec: BaseQuantSpec, skipped: list[str]) -> bytes:
    """The configuration, without a trace of where the model came from, and only what a client may trust."""
    config: dict[str, Any] = _without_origin(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    config["dtype"] = "bfloat16"
    if spec.format in _4BIT:
        config["quantization_config"] = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": spec.format,
            "bnb_4bit_use_double_quant": spec.double,
            "bnb_4bit_compute_dtype": "float32",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": skipped,
        }
    elif spec.format == "int8":
        config["quantization_config"] = {
            "quant_method": "bitsandbytes",
            "load_in_8bit": True,
            "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": skipped,
        }
    return _json(config)


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: child for name, child in value.items() if not name.startswith("_") and name not in _DROPPED}
        return {name: _without_origin(child) for name, child in kept.items()}
    return [_without_origin(child) for child in value] if isinstance(value, list) else value


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


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
