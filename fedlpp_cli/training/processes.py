"""Several processes that train together find each other, and part again."""

import contextlib
from collections.abc import Iterator

from fedlpp_cli.processes import n_processes, process_number
from fedlpp_cli.training.shares import Share


@contextlib.contextmanager
def joined(device: str, micro_batch: int | None, *, is_base_divided: bool = False) -> Iterator[Share]:
    """This process's share while the body runs.

    Gradients are summed by gloo on CPUs and by NCCL on GPUs. One that fails leaves the others waiting, until the
    program that started them ends them.
    """
    total = n_processes()
    if total == 1:
        yield Share(micro_batch)
        return
    import torch
    from torch import distributed

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Share(micro_batch, process_number(), total, is_base_divided)
    finally:
        distributed.destroy_process_group()
