"""Cut the rows of one data set into shards, one for each simulated client. Numbers in, numbers out.

Every row is in exactly one shard, no shard is empty, and equal seeds give equal shards. Within a shard rows keep their
order.

- iid: shards of equal size (or one row more), rows in random order.
- dirichlet: shards of equal size whose mixes of labels differ, as in Hsu et al. 2019 (arXiv 1909.06335): client j draws
  a mix q_j from Dirichlet(alpha p), where p are the labels' shares in the data, and then its rows' labels from q_j,
  without putting rows back. Clients draw a row each in turns, so that none is left with what the others did not want;
  where a label has run out, q_j is renormalized over the rest. A large alpha is nearly iid, a small one gives most
  clients one label.
- column: rows with equal values stay together; each value, the most frequent first, goes to the shard that is the
  smallest so far.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fedlpp_cli.errors import UsageError
from fedlpp_cli.randomness import numpy_draws

if TYPE_CHECKING:
    import numpy as np

Scheme = Literal["iid", "dirichlet", "column"]
Shards = tuple[tuple[int, ...], ...]
NameT = TypeVar("NameT")


def iid_shards(n_rows: int, n_shards: int, *, seed: int) -> Shards:
    """Row numbers from 0, a shard each; ascending.

    Raises:
        UsageError: fewer rows than shards.
    """
    _check_enough(n_rows, n_shards, "rows")
    order = numpy_draws(seed, "partition", "iid").permutation(n_rows).tolist()
    edges = [number * n_rows // n_shards for number in range(n_shards + 1)]
    return tuple(tuple(sorted(order[start:stop])) for start, stop in pairwise(edges))


def dirichlet_shards(labels: Sequence[str], n_shards: int, *, alpha: float, seed: int) -> Shards:
    """Row numbers from 0, a shard each; ascending.

    Args:
        labels: of each row.
        n_shards: how many.
        alpha: concentration, above 0.
        seed: names the draws.

    Raises:
        UsageError: fewer rows than shards, or an alpha that is not above 0.
    """
    import numpy as np

    _check_enough(len(labels), n_shards, "rows")
    if not 0.0 < alpha < float("inf"):
        raise UsageError(f"--dirichlet-alpha {alpha}: a number above 0 is needed")
    draws = numpy_draws(seed, "partition", "dirichlet")
    names = sorted(set(labels))
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row, label in enumerate(labels):
        rows[label].append(row)
    queues = [draws.permutation(rows[name]).tolist() for name in names]
    left = np.array([len(queue) for queue in queues], dtype=np.float64)
    mixes = [_dirichlet(alpha * left / left.sum(), draws) for _ in range(n_shards)]
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    for turn in range(len(labels)):
        shard = turn % n_shards
        drawn = _draw_label(mixes[shard], left, draws)
        left[drawn] -= 1
        shards[shard].append(queues[drawn].pop())
    return tuple(tuple(sorted(shard)) for shard in shards)


def column_shards(values: Sequence[str], n_shards: int | None = None) -> Shards:
    """Row numbers from 0, a shard each; ascending.

    Args:
        values: of each row.
        n_shards: how many; None for one each value.

    Raises:
        UsageError: fewer values than shards.
    """
    counts = Counter(values)
    n_shards = len(counts) if n_shards is None else n_shards
    _check_enough(len(counts), n_shards, "values in the column")
    sizes, where = [0] * n_shards, dict[str, int]()
    for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        where[value] = sizes.index(min(sizes))
        sizes[where[value]] += count
    shards: list[list[int]] = [[] for _ in range(n_shards)]
    for row, value in enumerate(values):
        shards[where[value]].append(row)
    return tuple(tuple(shard) for shard in shards)


def sample_clients(clients: Sequence[NameT], n: int | None, *, seed: int, round_number: int) -> tuple[NameT, ...]:
    """Who takes part in a round: `n` of them without replacement, in their order; None for all.

    Raises:
        UsageError: more than there are, or none.
    """
    if n is None:
        return tuple(clients)
    if not 1 <= n <= len(clients):
        raise UsageError(f"--clients-per-round {n}: there are {len(clients)} clients")
    order = numpy_draws(seed, "clients of round", round_number).permutation(len(clients))
    return tuple(clients[index] for index in sorted(order[:n].tolist()))


def _dirichlet(shape: "np.ndarray[Any, Any]", draws: "np.random.RandomState") -> "np.ndarray[Any, Any]":
    """One draw. In logarithms: with a small shape every gamma variate would be 0, and the mix 0 / 0.

    If G is Gamma(a + 1) and U uniform, G U^(1 / a) is Gamma(a) (Marsaglia and Tsang 2000).
    """
    import numpy as np

    logs = np.log(draws.standard_gamma(shape + 1.0)) + np.log(1.0 - draws.random_sample(len(shape))) / shape
    weights: np.ndarray[Any, Any] = np.exp(logs - logs.max())
    weights /= weights.sum()
    return weights


def _draw_label(mix: "np.ndarray[Any, Any]", left: "np.ndarray[Any, Any]", draws: "np.random.RandomState") -> int:
    """A label out of those that have rows left; of those that the mix does not want, in proportion to their rows."""
    weights = mix * (left > 0)
    if not weights.any():
        weights = left
    edges = weights.cumsum()
    found = int(edges.searchsorted(draws.random_sample() * edges[-1], side="right"))
    # Rounded up, the product may be the last edge itself.
    return min(found, int(weights.nonzero()[0][-1]))


def _check_enough(found: int, n_shards: int, what: str) -> None:
    if n_shards < 1:
        raise UsageError(f"--clients {n_shards}: at least one is needed")
    if found < n_shards:
        raise UsageError(f"--clients {n_shards}: there are {found} {what}, some clients would have no data")
