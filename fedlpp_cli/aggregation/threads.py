"""Who runs threads while updates are checked and folded: the fold itself, and not torch."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """While it lasts torch has one thread; how many it had is what the body may use.

    Each thread that calls torch gets a team of its own, whose members wait for work in busy loops; with as many teams
    as processors they mostly wait for each other. And with more than one thread sums in LAPACK and BLAS may go in
    another order.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(n_threads)
