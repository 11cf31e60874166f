"""Which updates are copies: by their tensors' bytes, and only where norms are equal."""

from itertools import permutations

import numpy as np
from support.updates import write_rows, write_update

from fedlpp_cli.aggregation.copies import find_copies
from fedlpp_cli.aggregation.norms import update_norm
from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import UpdateHeader

RANDOM = np.random.default_rng(0)
ROW = RANDOM.standard_normal(400_000).astype(np.float32)


def norms_of(updates):
    return [update_norm(one, {name: info.shape for name, info in one.tensors.items()}, None) for one in updates]


def found(updates, norms=None):
    pairs = zip(updates, norms or norms_of(updates), strict=True)
    return {
        (copy.update.header.spec.client, first.update.header.spec.client)
        for copy, first in find_copies([Received(update, proxy=None, norm=norm) for update, norm in pairs])
    }


def test_of_equal_tensors_the_smallest_sha256_is_first_in_any_order(tmp_path):
    updates = write_rows(tmp_path, np.stack([ROW, 2 * ROW, ROW, -ROW, ROW]))
    first, *others = sorted((updates[k] for k in (0, 2, 4)), key=lambda one: one.sha256)
    expected = {(one.header.spec.client, first.header.spec.client) for one in others}
    for order in permutations(updates):
        assert found(list(order)) == expected


def test_the_last_bit_counts(tmp_path):
    near = ROW.copy()
    near[-1] = np.nextafter(near[-1], np.float32(9))
    updates = write_rows(tmp_path, np.stack([ROW, near]))
    assert found(updates) == set()
    assert found(updates, [1.0, 1.0]) == set()


def test_zeros_of_both_signs_are_not_the_same_bytes(tmp_path):
    zero, minus = ROW.copy(), ROW.copy()
    zero[7], minus[7] = 0.0, -0.0
    updates = write_rows(tmp_path, np.stack([zero, minus]))
    assert len(set(norms_of(updates))) == 1
    assert found(updates) == set()


def test_only_updates_with_equal_norms_are_read_again(tmp_path):
    updates = write_rows(tmp_path, np.stack([ROW, ROW, 2 * ROW]))
    norms = norms_of(updates)
    assert len({one.sha256 for one in updates}) == 3
    updates[2].close()  # reading it would fail
    assert len(found(updates, norms)) == 1


def test_two_of_one_client_are_no_copies(tmp_path):
    paths = [write_update(tmp_path / str(k), {"head.bias": ROW[:10]}, client="a", n_examples=k + 1) for k in range(2)]
    updates = [TensorFile(path, UpdateHeader) for path in paths]
    assert found(updates) == set()
