"""Dense weights or quantized kernels: chosen from what the model takes and what the machine has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.base_size import BYTES, BaseSize
from fedlpp_cli.records.compute import Backend, ComputeChoice, ComputeSpec
from fedlpp_cli.records.specs import ComputeType

# Of what is free: other programs want some too, and an estimate is none to the last byte.
_SHARE: Final = 0.9
# Of a layer, kept for the backward pass: tensors as wide as the hidden state, and as wide as the feed-forward part.
_HIDDEN_TENSORS: Final = 16
_INNER_TENSORS: Final = 8
# Logits, in float32: as they are, their softmax, their gradient.
_LOGITS: Final = 3
# An adapter's values, gradients and two moments of AdamW, in float32.
_ADAPTER_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What trains: numbers of trainable parameters, and the tokens, with padding, that go through at once at most."""

    n_trainable: int
    n_tokens: int

    def n_bytes(self, size: BaseSize, arithmetic: ComputeType, *, checkpointing: bool) -> int:
        """About what adapter and activations take, at most."""
        width = BYTES[arithmetic]
        layer = width * (_HIDDEN_TENSORS * size.hidden + _INNER_TENSORS * size.inner)
        kept = width * size.hidden * size.n_layers + layer if checkpointing else layer * size.n_layers
        per_token = kept + size.vocabulary * (width + 4 * _LOGITS)
        return _ADAPTER_BYTES * self.n_trainable + self.n_tokens * per_token


def choose_compute(
    wish: ComputeSpec,
    size: BaseSize,
    work: Work,
    *,
    arithmetic: ComputeType,
    device: str,
    free: int | None,
    n_processes: int = 1,
) -> ComputeChoice:
    """What to open the base with. `auto` goes with the package's arithmetic, and is dense where memory allows.

    Args:
        wish: what the client asks for.
        size: of the base.
        work: of the training.
        arithmetic: what the package asks for.
        device: where the base will be.
        free: bytes of memory that are free there; None where nobody can tell.
        n_processes: how many share each batch.

    Raises:
        UsageError: bnb-4bit for a base that cannot be had like that; a base that is to be divided, and cannot be.
    """
    used: ComputeType = {"dense-fp32": "fp32", "dense-bf16": "bf16"}.get(wish.backend, arithmetic)  # type: ignore[assignment]
    extra = work.n_bytes(size, used, checkpointing=wish.gradient_checkpointing)
    dense, quantized = size.dense_bytes(used) + extra, size.quantized_bytes(used) + extra
    if wish.shard_base:
        _check_divisible(wish, n_processes)
        dense = _divided_bytes(size, used, n_processes) + extra
    backend, reason = _backend(wish, size, used, dense, quantized, free)
    return ComputeChoice(
        backend=backend,
        arithmetic=used,
        device=device,
        reason="; ".join([reason, *_slow(used, device)]),
        attention=None,
        gradient_checkpointing=wish.gradient_checkpointing,
        micro_batch=wish.micro_batch,
        n_processes=n_processes,
        shard_base=wish.shard_base,
        memory_estimate=quantized if backend.startswith("bnb") else dense,
        memory_free=free,
    )


def _backend(
    wish: ComputeSpec, size: BaseSize, used: ComputeType, dense: int, quantized: int, free: int | None
) -> tuple[Backend, str]:
    in_dense: Backend = "dense-fp32" if used == "fp32" else "dense-bf16"
    in_quantized: Backend = "bnb-8bit" if size.layout == "bnb-8bit" else "bnb-4bit"
    if wish.backend == "bnb-4bit":
        if size.layout in {"packed", "bnb-8bit"}:
            raise UsageError(
                f"--compute bnb-4bit: this base comes {'packed' if size.layout == 'packed' else 'in 8 bits'}",
                hint="--compute auto",
            )
        return "bnb-4bit", "asked for"
    if wish.backend != "auto":
        return in_dense, "asked for"
    if wish.shard_base:
        return in_dense, f"a process's part needs about {_size(dense)}" + (f", {_size(free)} are free" if free else "")
    if free is None:
        return in_dense, f"dense needs about {_size(dense)}; how much memory is free is not known"
    has = f"dense needs about {_size(dense)}, {_size(free)} are free"
    if dense <= _SHARE * free:
        return in_dense, has
    if size.layout == "packed":
        return in_dense, f"{has}, which may not do; a packed base can only be dense"
    if quantized <= _SHARE * free:
        return in_quantized, f"{has}; quantized about {_size(quantized)}, and slower"
    return in_quantized, f"{has}, which may not do for about {_size(quantized)} quantized either"


def _check_divisible(wish: ComputeSpec, n_processes: int) -> None:
    if n_processes == 1:
        raise UsageError(
            "--shard-base: this is a single process, a base is divided among several",
            hint="torchrun --nproc-per-node 2 -m fedlpp_cli client-train … --shard-base",
        )
    if wish.backend == "bnb-4bit":
        raise UsageError("--shard-base: a base is divided with dense weights only", hint="--compute auto")


def _divided_bytes(size: BaseSize, used: ComputeType, n_processes: int) -> int:
    """A process's part; the layer that computes and the next one, which are whole; embeddings and output layer."""
    whole = size.dense_bytes(used)
    outside = 2 * size.vocabulary * size.hidden * BYTES[used]
    return whole // n_processes + 2 * whole // max(1, size.n_layers) + outside


def _slow(used: ComputeType, device: str) -> Sequence[str]:
    if used == "bf16" and device == "cpu" and not _cpu_has_bf16():
        return ["this processor has no bf16 instructions, dense-fp32 is faster"]
    return []


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX on x86, BF16 on Arm: whether oneDNN multiplies bf16 without making float32 of it."""
    import torch

    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
