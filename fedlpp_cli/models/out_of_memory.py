"""Telling that memory ran out, and what helps, whoever it is that said so."""

import contextlib
from collections.abc import Iterator

from fedlpp_cli.errors import MemoryLimitError
from fedlpp_cli.records.compute import ComputeChoice


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is one; on a CPU torch raises a RuntimeError, and only its text tells which."""
    if isinstance(error, MemoryError):
        return True
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextlib.contextmanager
def memory_errors(choice: ComputeChoice, *, doing: str, batch_size: int) -> Iterator[None]:
    """What runs out of memory in the body becomes one line that names the options that help and are not in use.

    Args:
        choice: how it computes.
        doing: what, "opening the base model" or "training".
        batch_size: of the package's recipe.

    Raises:
        MemoryLimitError: instead of what torch or Python raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = "memory" if choice.device == "cpu" else f"memory of {choice.device}"
        raise MemoryLimitError(
            f"{where} ran out while {doing}, with {choice.backend}; nothing was written",
            hint=", or ".join(_ways_out(choice, doing, batch_size)),
        ) from None


def _ways_out(choice: ComputeChoice, doing: str, batch_size: int) -> Iterator[str]:
    """The least costly first."""
    at_once = choice.micro_batch or batch_size
    if doing == "training" and at_once > 1:
        yield f"--micro-batch {max(1, at_once // 4)}"
    if doing == "training" and not choice.gradient_checkpointing:
        yield "--gradient-checkpointing"
    if not choice.backend.startswith("bnb"):
        yield "--compute bnb-4bit"
    if choice.arithmetic == "fp32" and not choice.backend.startswith("bnb"):
        yield "--compute dense-bf16"
    if choice.device != "cpu":
        yield "--device cpu"
    yield "a machine with more memory"
