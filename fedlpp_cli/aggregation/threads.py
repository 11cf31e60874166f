"""Who runs threads while updates are checked and folded: the fold itself, and not torch."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def taken_from_torch() -> Iterator[int]:
    """How many threads torch may use, all of them the body's: torch runs on one until the end.

    Each thread that calls torch gets a team of its own, whose members wait for work in busy loops; with as many teams
    as processors they mostly wait for each other.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(n_threads)
