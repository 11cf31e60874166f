"""Rebuilt rows held against the rows: what was found, and how much of it is in order."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import permutations
from typing import Final

import numpy as np

from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.leakage.row_search import Shape
from fedlpp_cli.leakage.token_recovery import Nearness
from fedlpp_cli.tasks.task import Example

# Of an update that does not exclude tokens so many are tried at least.
_LEAST_CANDIDATES: Final = 64
# Of so many draws of random rows; the share of them that one has to be better than.
_N_DRAWS: Final = 1000
_SURE: Final = 0.95


def shapes_of(rows: Sequence[Example], special: Collection[int]) -> list[Shape]:
    """What of the rows is taken for known."""
    return [
        Shape(row, tuple(place for place, token in enumerate(row.input_ids) if token not in special)) for row in rows
    ]


def own_tokens(shapes: Sequence[Shape]) -> list[list[int]]:
    """The rows' tokens at their free places."""
    return [[shape.row.input_ids[place] for place in shape.free] for shape in shapes]


def candidates_of(
    tokens: Sequence[int], near: Nearness | None, rises: Array | None, n_places: int, *, has_spans: bool
) -> list[int]:
    """The tokens to try, likeliest first: twice as many as there are places where the update excludes others.

    Elsewhere four times as many and 64 at least, by turns what the first layer and what the model's own words say.

    Args:
        tokens: all.
        near: what the first adapted layer says of them.
        rises: how far each one's log-probability rose, `(tokens,)`; None where the model does not say tokens.
        n_places: how many places the rows have.
        has_spans: the update is made of gradients, and not of their signs.
    """
    by_span = [] if near is None else [tokens[i] for i in np.argsort(-near.scores, kind="stable")]
    if near is not None and near.is_exact and has_spans:
        return by_span[: max(2 * n_places, near.rank)]
    by_rise = [] if rises is None else [tokens[i] for i in np.argsort(-rises, kind="stable")]
    if not by_span and not by_rise:
        return list(tokens)
    orders = [order for order in (by_span, by_rise) if order]
    by_turns = dict.fromkeys(token for both in zip(*orders, strict=True) for token in both)
    return list(by_turns)[: max(4 * n_places, _LEAST_CANDIDATES)]


def share_found(own: Sequence[Sequence[int]], rebuilt: Sequence[Sequence[int]]) -> float:
    """The share of the rows' tokens, each as often as it is there, that the rebuilt rows have, wherever."""
    truth, guess = (Counter(token for row in rows for token in row) for rows in (own, rebuilt))
    return (truth & guess).total() / truth.total()


def share_in_order(own: Sequence[Sequence[int]], rebuilt: Sequence[Sequence[int]]) -> float:
    """ROUGE-L (Lin 2004) over all rows, which are as long as the rebuilt ones; those in their best order.

    Precision is recall then: the longest common subsequences over the number of tokens.
    """
    common = [[_common(truth, guess) for guess in rebuilt] for truth in own]
    best = max(
        sum(common[row][other] for row, other in enumerate(order)) for order in permutations(range(len(rebuilt)))
    )
    return best / sum(map(len, own))


def drawn_shares(
    own: Sequence[Sequence[int]], candidates: Sequence[int], draws: np.random.RandomState
) -> tuple[float, float]:
    """`share_found` and `share_in_order` that only one in twenty random rows of candidates is above."""
    shares = []
    for _ in range(_N_DRAWS):
        rows = [[candidates[i] for i in draws.randint(0, len(candidates), len(row))] for row in own]
        shares.append((share_found(own, rows), share_in_order(own, rows)))
    found, in_order = np.quantile(np.array(shares), _SURE, axis=0, method="higher")
    return float(found), float(in_order)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for one in first:
        above = lengths
        lengths = [0]
        for place, other in enumerate(second):
            lengths.append(above[place] + 1 if one == other else max(above[place + 1], lengths[-1]))
    return lengths[-1]
