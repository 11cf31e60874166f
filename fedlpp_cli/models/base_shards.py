"""Stream one weight file of a private base into its rounded copy. Loads no torch.

Threads take a tensor each, and one of them the file's sha256: what is written gets its name only if the bytes that it
was made from are the agreed ones.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.artifact import tensor_header
from fedlpp_cli.artifact.safetensors_file import SafetensorsFile
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.models.base_plan import TensorPlan
from fedlpp_cli.quantization.base_weights import PATTERNS, PIECE, keep_weight, round_weight
from fedlpp_cli.records.specs import BaseQuantSpec

_BYTES: Final = np.dtype(np.uint8)
# transformers looks for it.
_METADATA: Final = ("format", "pt")


def write_shard(
    source: Path,
    tensors: Sequence[TensorPlan],
    target: Path,
    spec: BaseQuantSpec,
    pool: Executor,
    *,
    check: Callable[[], None],
    on_done: Callable[[], None],
) -> None:
    """Round the tensors of one file.

    Args:
        source: the file.
        tensors: what becomes of each.
        target: the new file.
        spec: how to round.
        pool: threads.
        check: raises where `source` is not what it should be; runs beside the rounding.
        on_done: told of every tensor that is done, and of the check.

    Raises:
        GateError: a value that is not finite.
        ArtifactError: the file changed under us.
        OutputError: no space.
    """
    layout = {name: kind for tensor in tensors for name, kind in tensor.layout(spec).items()}
    prefix, infos = tensor_header.build(layout, _METADATA)
    with SafetensorsFile(source) as file, whole_file(target) as descriptor:

        def write(name: str, offset: int, values: NDArray[Any]) -> None:
            with output_errors(target):
                write_all(descriptor, np.ascontiguousarray(values).view(_BYTES).data, infos[name].start + offset)

        with output_errors(target):
            os.ftruncate(descriptor, max((info.stop for info in infos.values()), default=len(prefix)))
            write_all(descriptor, prefix, 0)
        checked = pool.submit(check)  # first: it takes longest
        jobs = [pool.submit(_treat, file, tensor, spec, write) for tensor in tensors]
        _finish([*jobs, checked], on_done)


def _finish(jobs: Sequence[Future[None]], on_done: Callable[[], None]) -> None:
    """Wait for all; after the first that fails, or Ctrl-C, no other begins."""
    try:
        for job in as_completed(jobs):
            job.result()
            on_done()
    finally:
        for job in jobs:
            job.cancel()
        wait(jobs)


def _treat(
    file: SafetensorsFile, tensor: TensorPlan, spec: BaseQuantSpec, write: Callable[[str, int, NDArray[Any]], None]
) -> None:
    dtype = tensor.info.dtype
    if tensor.treatment == "copy":
        _copy(file, tensor, write)
    elif tensor.treatment == "keep":
        keep_weight(tensor.name, tensor.shape, dtype, _reader(file, tensor), write)
    elif tensor.treatment != "drop":
        read = _turned(file, tensor) if tensor.treatment == "turn" else _reader(file, tensor)
        factor = 1.0
        if tensor.mask is not None:
            read = tensor.mask.over(read)
            factor = tensor.mask.factor if spec.mask_scaling else 1.0
        round_weight(tensor.name, tensor.shape, dtype, spec, read, write, factor=factor)


def _reader(file: SafetensorsFile, tensor: TensorPlan) -> Callable[[int, int], NDArray[Any]]:
    """Values of a tensor by position, in memory that is used again."""
    patterns = PATTERNS[tensor.info.dtype]
    buffer = np.empty(0, patterns)

    def read(start: int, stop: int) -> NDArray[Any]:
        nonlocal buffer
        if buffer.size < stop - start:
            buffer = np.empty(stop - start, patterns)
        part = buffer[: stop - start]
        file.read_into(part.view(_BYTES).data, tensor.info.start + start * patterns.itemsize)
        return part

    return read


def _turned(file: SafetensorsFile, tensor: TensorPlan) -> Callable[[int, int], NDArray[Any]]:
    """Values of a matrix that lies `(in_features, out_features)`, row by row of its transpose."""
    whole = np.empty(tensor.info.shape, PATTERNS[tensor.info.dtype])
    file.read_into(whole.reshape(-1).view(_BYTES).data, tensor.info.start)
    flat = np.ascontiguousarray(whole.T).reshape(-1)
    return lambda start, stop: flat[start:stop]


def _copy(file: SafetensorsFile, tensor: TensorPlan, write: Callable[[str, int, NDArray[Any]], None]) -> None:
    for start in range(0, tensor.info.n_bytes, 2 * PIECE):
        part = np.empty(min(2 * PIECE, tensor.info.n_bytes - start), np.uint8)
        file.read_into(part.data, tensor.info.start + start)
        write(tensor.name, start, part)
