"""Whether a row was trained on, told by how far its loss fell: numbers in, numbers out.

The loss under the proxy is the reference that takes out how easy a row is by itself (LoRA-Leak, arXiv 2507.18302, has
the base model for it): the higher a score, the more likely the row is a member.
"""

from typing import Final

import numpy as np

from fedlpp_cli.evaluation.bootstrap import interval_of
from fedlpp_cli.evaluation.scored import Array, Scored
from fedlpp_cli.records.audits import Membership
from fedlpp_cli.rounding import six_digits

# Low false-positive rates are what counts (Carlini et al. 2022, arXiv 2112.03570).
FALSE_POSITIVE_RATE: Final = 0.01


def loss_drops(before: Scored, after: Scored) -> Array:
    """How far each example's mean loss a target fell, float64 `(N,)`."""
    return np.asarray((before.losses - after.losses) / before.n_targets)


def auc(scores: Array, is_member: Array, counts: Array | None = None) -> float:
    """The chance that a member scores above one that is none, ties half; NaN without both.

    Args:
        scores: float64 `(N,)`.
        is_member: bool `(N,)`.
        counts: int64 `(N,)`, how often each counts; None for once.
    """
    counts = np.ones(len(scores)) if counts is None else counts
    _, rank = np.unique(scores, return_inverse=True)
    members, others = (np.bincount(rank, counts * chosen) for chosen in (is_member, ~is_member))
    below = np.cumsum(others) - others
    n_pairs = members.sum() * others.sum()
    return float((members * (below + others / 2)).sum() / n_pairs) if n_pairs else float("nan")


def true_positive_rate(scores: Array, is_member: Array) -> float:
    """The share of members above a threshold that at most `FALSE_POSITIVE_RATE` of the others are above."""
    others = np.sort(scores[~is_member])[::-1]
    threshold = others[int(FALSE_POSITIVE_RATE * len(others))]
    return float((scores[is_member] > threshold).mean())


def membership(members: Array, others: Array, *, of_update: bool) -> Membership:
    """The test of members' scores `(M,)` against those of others `(N,)`, with a bootstrap interval.

    Args:
        members: of rows that were trained on.
        others: of rows that were not.
        of_update: whether the update itself was looked at.
    """
    scores = np.concatenate([members, others])
    is_member = np.arange(len(scores)) < len(members)
    interval = interval_of(lambda counts: auc(scores, is_member, counts), len(scores))
    return Membership(
        of="update" if of_update else "training like it",
        n_members=len(members),
        n_others=len(others),
        auc=six_digits(auc(scores, is_member)),
        auc_interval=interval,
        true_positive_rate=six_digits(true_positive_rate(scores, is_member)),
    )
