"""Laws of cutting one data set into shards: every row once, no shard empty, equal seeds give equal shards."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.engines.partition import column_shards, dirichlet_shards, iid_shards, sample_clients
from fedlpp_cli.errors import UsageError

SEEDS = st.integers(0, 2**53)
LABELS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)
ALPHAS = st.sampled_from([1e-300, 1e-6, 0.01, 0.3, 1.0, 10.0, 1e6])


def check(shards, n_rows):
    """Every row exactly once, in order within its shard, and no shard empty."""
    assert sorted(row for shard in shards for row in shard) == list(range(n_rows))
    assert all(shard and list(shard) == sorted(shard) for shard in shards)


def is_even(shards):
    return max(map(len, shards)) - min(map(len, shards)) <= 1


@given(n_rows=st.integers(1, 200), data=st.data(), seed=SEEDS)
def test_iid(n_rows, data, seed):
    n_shards = data.draw(st.integers(1, n_rows))
    shards = iid_shards(n_rows, n_shards, seed=seed)
    check(shards, n_rows)
    assert is_even(shards)
    assert shards == iid_shards(n_rows, n_shards, seed=seed)


@settings(deadline=None)
@given(labels=LABELS, alpha=ALPHAS, data=st.data(), seed=SEEDS)
def test_dirichlet(labels, alpha, data, seed):
    n_shards = data.draw(st.integers(1, len(labels)))
    shards = dirichlet_shards(labels, n_shards, alpha=alpha, seed=seed)
    check(shards, len(labels))
    assert is_even(shards)
    assert shards == dirichlet_shards(labels, n_shards, alpha=alpha, seed=seed)


@given(values=LABELS, data=st.data())
def test_column(values, data):
    n_shards = data.draw(st.none() | st.integers(1, len(set(values))))
    shards = column_shards(values, n_shards)
    check(shards, len(values))
    assert len(shards) == (n_shards or len(set(values)))
    homes = {(value, number) for number, shard in enumerate(shards) for value in {values[row] for row in shard}}
    assert len(homes) == len(set(values))


@given(n_clients=st.integers(1, 50), data=st.data(), seed=SEEDS, round_number=st.integers(0, 1000))
def test_a_sample_is_without_replacement_and_in_order(n_clients, data, seed, round_number):
    clients = tuple(f"c{number}" for number in range(n_clients))
    n = data.draw(st.integers(1, n_clients))
    chosen = sample_clients(clients, n, seed=seed, round_number=round_number)
    assert len(set(chosen)) == n
    assert list(chosen) == [client for client in clients if client in chosen]
    assert chosen == sample_clients(clients, n, seed=seed, round_number=round_number)
    assert sample_clients(clients, None, seed=seed, round_number=round_number) == clients


def test_every_client_has_its_turn():
    counts = Counter(
        client for number in range(2000) for client in sample_clients(range(10), 3, seed=1, round_number=number)
    )
    assert all(500 < counts[client] < 700 for client in range(10))


@pytest.mark.parametrize("cut", [
    lambda n: iid_shards(7, n, seed=0),
    lambda n: dirichlet_shards("aabbccd", n, alpha=1.0, seed=0),
    lambda n: column_shards("abcdefg", n),
], ids=["iid", "dirichlet", "column"])  # fmt: skip
def test_an_empty_shard_is_refused(cut):
    assert len(cut(7)) == 7
    with pytest.raises(UsageError, match=r"--clients 8: there are 7 .* no data"):
        cut(8)
    with pytest.raises(UsageError, match="at least one"):
        cut(0)


def test_fewer_values_than_shards_are_refused():
    with pytest.raises(UsageError, match="there are 2 values in the column"):
        column_shards("aabb", 3)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_concentration_that_is_none_is_refused(alpha):
    with pytest.raises(UsageError, match="--dirichlet-alpha"):
        dirichlet_shards("ab", 2, alpha=alpha, seed=0)


def distance(labels, shards):
    """Mean total variation between a shard's mix of labels and that of all rows."""
    everybody = Counter(labels)
    off = 0.0
    for shard in shards:
        own = Counter(labels[row] for row in shard)
        off += sum(abs(own[name] / len(shard) - everybody[name] / len(labels)) for name in everybody) / 2
    return off / len(shards)


def test_a_smaller_alpha_makes_clients_differ_more():
    labels = [f"label {number % 10}" for number in range(5000)]
    off = [distance(labels, dirichlet_shards(labels, 20, alpha=alpha, seed=3)) for alpha in (0.1, 10.0, 1e6)]
    same = distance(labels, iid_shards(len(labels), 20, seed=3))
    # With one label each the distance would be 0.9.
    assert off[0] > 0.6
    assert off[0] > off[1] > 1.5 * off[2]
    assert abs(off[2] - same) < 0.03


def test_values_stay_what_they_are():
    """Runs that were started go on with the same shards under later versions."""
    assert iid_shards(10, 3, seed=5) == ((2, 7, 8), (3, 5, 6), (0, 1, 4, 9))
    assert dirichlet_shards("aaaabbbbcc", 3, alpha=0.5, seed=5) == ((1, 2, 3, 9), (0, 6, 7), (4, 5, 8))
    assert column_shards("aabbbcdd", 2) == ((2, 3, 4, 5), (0, 1, 6, 7))
    assert sample_clients("abcdefgh", 3, seed=5, round_number=2) == ("b", "e", "h")
