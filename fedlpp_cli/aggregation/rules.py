"""How updates become one: which clients count, how much, and whether by sums or value by value.

x_k: the update of client k of n, as one long vector, after clipping; w_k: its weight, 1/n unless something is counted;
f: how many clients may be against the owner (`n_malicious`); d(x, y): the L2 distance.

mean               sum of w_k x_k
median             of each value (Yin et al. 2018, arXiv 1803.01498); of an even number the mean of the middle two
trimmed-mean       of each value, without the f smallest and the f largest (the same paper)
krum               the x_k with the least sum of its n - f - 2 smallest d^2 (Blanchard et al. 2017, arXiv 1703.02757)
multi-krum         the mean of the n - f updates with the least such sums
bulyan             trimmed-mean, with f, of the n - 2f of multi-krum (after El Mhamdi et al. 2018, arXiv 1802.07927)
geometric-median   sum of d(z, x_k) w_k least, Weiszfeld's steps from 0 (RFA: Pillutla et al. 2019, arXiv 1912.13445)
centered-clipping  z += sum of w_k (x_k - z) min(1, r / d(x_k, z)), from 0 (Karimireddy et al. 2020, arXiv 2012.10333)
fltrust            sum of t_k x_k |g| / |x_k|, t_k as max(0, cos(x_k, g)) (Cao et al. 2020, arXiv 2012.13995)
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.errors import GateError, QuorumError, UsageError
from fedlpp_cli.records.specs import AggregateSpec, Rule

WEISZFELD_STEPS: Final = 8
CLIPPING_STEPS: Final = 5
# Of the median norm: nearer than this to an update, the geometric median is that update.
SMOOTHING: Final = 1e-5

Array = NDArray[Any]
# Rules that give the clients weights of their own choice.
_UNWEIGHTED: Final[frozenset[Rule]] = frozenset({"median", "trimmed-mean", "krum", "multi-krum", "bulyan", "fltrust"})
# Rule to (a, b): it withstands f of n clients where n >= a f + b.
_BOUNDS: Final[dict[Rule, tuple[int, int]]] = {
    "median": (2, 1),
    "trimmed-mean": (2, 1),
    "krum": (2, 3),
    "multi-krum": (2, 3),
    "bulyan": (4, 3),
    "geometric-median": (2, 1),
    "centered-clipping": (2, 1),
}
# Without a number of malicious clients these are the mean under another name.
_NEED_MALICIOUS: Final[frozenset[Rule]] = frozenset({"trimmed-mean", "multi-krum", "bulyan"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do for each value.

    `weights`: one for each client. `trimmed` None: the sum of weight times value. Else: of the clients with a weight,
    the mean of their values without the `trimmed` smallest and largest.
    """

    weights: tuple[float, ...]
    trimmed: int | None = None


class Measures(Protocol):
    """What rules ask of the updates as a whole; each answer is a pass over all of them."""

    def pair_distances(self) -> Array:
        """Squared distances `(n, n)`."""

    def distances_to(self, weights: Sequence[float]) -> list[float]:
        """Distance of each update to the sum of weight times update."""

    def reference_cosines(self) -> tuple[list[float], float]:
        """Cosine of each update with the owner's reference update, and the reference's norm."""


def check_options(spec: AggregateSpec, *, has_reference: bool) -> None:
    """Refuse options that do not go together, whatever the number of clients.

    Raises:
        UsageError: saying which.
    """
    rule, clips = spec.rule, spec.rule == "centered-clipping"
    if spec.n_malicious and rule not in _BOUNDS:
        raise UsageError(f"--n-malicious {spec.n_malicious}: --rule {rule} makes no promise about a number of clients")
    if not spec.n_malicious and rule in _NEED_MALICIOUS:
        raise UsageError(f"--rule {rule} needs --n-malicious: without it, it is the mean")
    if rule in _UNWEIGHTED and spec.weighting != "equal":
        raise UsageError(f"--weighting {spec.weighting}: --rule {rule} has no weights", hint="--weighting equal")
    if rule in _UNWEIGHTED and spec.max_share < 1:
        raise UsageError(f"--max-share {spec.max_share:g}: --rule {rule} has no weights")
    if spec.clip_to_median and spec.clip_norm is not None and not clips:
        raise UsageError("--clip-norm and --clip-to-median: choose one of them")
    if has_reference != (rule == "fltrust"):
        raise UsageError("--rule fltrust and --reference-update go together")


def check_numbers(spec: AggregateSpec, n_clients: int) -> None:
    """Refuse fewer clients than the rule needs.

    Raises:
        QuorumError: what is needed.
    """
    factor, more = _BOUNDS.get(spec.rule, (0, 1))
    needed = factor * spec.n_malicious + more
    if n_clients < needed:
        formula = f"{factor} x {spec.n_malicious} + {more} = {needed}" if spec.n_malicious else str(needed)
        raise QuorumError(
            f"--rule {spec.rule} with --n-malicious {spec.n_malicious}: {n_clients} sound updates, "
            f"at least {formula} are needed"
        )


def clip_factors(spec: AggregateSpec, norms: Sequence[float]) -> list[float]:
    """What each update is multiplied with in front of the rule, at most 1."""
    limit = statistics.median(norms) if spec.clip_to_median else None
    if spec.clip_norm is not None and spec.rule != "centered-clipping":
        limit = spec.clip_norm
    return [1.0 if limit is None or norm <= limit else limit / norm for norm in norms]


def make_plan(spec: AggregateSpec, weights: Sequence[float], norms: Sequence[float], measures: Measures) -> Plan:
    """The rule, as weights.

    Args:
        spec: checked by `check_options` and `check_numbers`.
        weights: of the clients, with a sum of 1.
        norms: of the updates, after clipping.
        measures: of the updates, after clipping.

    Raises:
        GateError: fltrust, and no update has anything in common with the reference.
    """
    n_clients, f = len(weights), spec.n_malicious
    match spec.rule:
        case "mean":
            plan = Plan(tuple(weights))
        case "median":
            plan = Plan(tuple(weights), trimmed=(n_clients - 1) // 2)
        case "trimmed-mean":
            plan = Plan(tuple(weights), trimmed=f)
        case "krum":
            plan = Plan(_selected(measures, n_clients, f, 1))
        case "multi-krum":
            plan = Plan(_selected(measures, n_clients, f, n_clients - f))
        case "bulyan":
            plan = Plan(_selected(measures, n_clients, f, n_clients - 2 * f), trimmed=f)
        case "geometric-median":
            plan = Plan(tuple(_weiszfeld(weights, norms, measures)))
        case "centered-clipping":
            plan = Plan(tuple(_centered_clipping(weights, norms, spec.clip_norm, measures)))
        case "fltrust":
            plan = Plan(tuple(_trust(norms, *measures.reference_cosines())))
        case _:
            assert_never(spec.rule)
    return plan


def krum_scores(squared: Array, n_malicious: int) -> list[float]:
    """For each client the sum of its n - f - 2 smallest squared distances to others, added in rising order."""
    n_clients = len(squared)
    others = [np.sort(np.delete(row, k)) for k, row in enumerate(squared)]
    return [float(np.cumsum(row[: n_clients - n_malicious - 2])[-1]) for row in others]


def _selected(measures: Measures, n_clients: int, n_malicious: int, n_selected: int) -> tuple[float, ...]:
    """Equal weights for the best by Krum's score; of equally good ones for the first."""
    scores = krum_scores(measures.pair_distances(), n_malicious)
    best = set(sorted(range(n_clients), key=lambda k: (scores[k], k))[:n_selected])
    return tuple(1 / n_selected if k in best else 0.0 for k in range(n_clients))


def _weiszfeld(weights: Sequence[float], norms: Sequence[float], measures: Measures) -> list[float]:
    """From 0, where no update is so large that a few steps could not come back from it: the mean can be that far."""
    smoothing = SMOOTHING * statistics.median(norms)
    current, distances = [0.0] * len(weights), list(norms)
    for step in range(WEISZFELD_STEPS):
        if step:
            distances = measures.distances_to(current)
        pulls = [weight / max(smoothing, distance) for weight, distance in zip(weights, distances, strict=True)]
        current = [pull / sum(pulls) for pull in pulls]
    return current


def _centered_clipping(
    weights: Sequence[float], norms: Sequence[float], radius: float | None, measures: Measures
) -> list[float]:
    """The radius is the median distance where none is given."""
    current, distances = [0.0] * len(weights), list(norms)
    for step in range(CLIPPING_STEPS):
        if step:
            distances = measures.distances_to(current)
        limit = statistics.median(distances) if radius is None else radius
        pulls = [
            weight * (1.0 if distance <= limit else limit / distance)
            for weight, distance in zip(weights, distances, strict=True)
        ]
        rest = max(0.0, 1 - sum(pulls))
        current = [rest * part + pull for part, pull in zip(current, pulls, strict=True)]
    return current


def _trust(norms: Sequence[float], cosines: Sequence[float], reference_norm: float) -> list[float]:
    scores = [max(0.0, cosine) for cosine in cosines]
    if not sum(scores):
        raise GateError("--rule fltrust: no update goes in the direction of the reference update")
    return [
        score / sum(scores) * reference_norm / norm if norm else 0.0 for score, norm in zip(scores, norms, strict=True)
    ]
