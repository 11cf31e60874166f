"""While updates are folded, threads are the fold's."""

import torch

from fedlpp_cli.aggregation.threads import one_thread


def test_torch_has_one_thread_within_and_its_own_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread() as n_threads:
            assert (n_threads, torch.get_num_threads()) == (3, 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
