"""How much each client counts."""

from collections.abc import Sequence

from fedlpp_cli.errors import GateError, QuorumError
from fedlpp_cli.records.specs import Weighting


def client_weights(
    sizes: Sequence[float], *, weighting: Weighting, max_examples: int | None, max_share: float = 1.0
) -> list[float]:
    """Weights that sum to 1.

    Args:
        sizes: of each client the number of examples that it says it trained on, or the norm of its product.
        weighting: by examples, by norms of products, or all equal.
        max_examples: counts above it count as it, since clients report them themselves.
        max_share: no weight is above it.

    Raises:
        QuorumError: too few clients for that share.
        GateError: by norms of products, and all are zero.
    """
    match weighting:
        case "examples":
            counts = [min(count, max_examples or count) for count in sizes]
        case "product-norm":
            counts = list(sizes)
        case "equal":
            counts = [1] * len(sizes)
    total = sum(counts)
    if not total:
        raise GateError("--weighting product-norm: B A is zero in every adapter that was trained")
    return limit_shares([count / total for count in counts], max_share)


def limit_shares(weights: Sequence[float], max_share: float) -> list[float]:
    """Weights above the limit are cut to it; what they lose goes to the others, in proportion to theirs.

    Raises:
        QuorumError: not even equal weights keep to it.
    """
    n_clients = len(weights)
    if max_share * n_clients < 1 - 1e-9:
        raise QuorumError(
            f"--max-share {max_share:g}: {n_clients} clients cannot share 1 in parts of at most that",
            hint=f"at least {1 / n_clients:.6g}, or more sound updates",
        )
    limited: set[int] = set()
    result = list(weights)
    while over := {k for k, weight in enumerate(result) if weight > max_share} - limited:
        limited |= over
        free = sum(weights[k] for k in range(n_clients) if k not in limited)
        left = 1 - max_share * len(limited)
        result = [max_share if k in limited else weight * left / free for k, weight in enumerate(weights)]
    return result
