"""Linear algebra whose bytes do not depend on how many threads there are."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts torch has one thread: with more, sums in LAPACK and BLAS may go in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
