"""Which inputs of a linear layer its update is made of: the gradient's rows lie in the span of what came in.

Of `y = W x + s B A x` over tokens t the gradient of A is `s sum_t (B^T g_t) x_t^T`, and that of B is
`s sum_t g_t (A x_t)^T`: rows of the one lie in the span of all x_t, rows of the other in that of all A x_t. An input
outside of it was not there (DAGER, Petrov et al. 2024, arXiv 2405.15586, for whole weights; here for factors). With as
many inputs as the update has room for the span is everything, and nothing is excluded.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Singular values fall at least this far from those of the inputs to those of later steps.
_GAP: Final = 10.0
# The last ones of a random matrix are far below the others too.
_MOST: Final = 0.75


@dataclass(frozen=True, slots=True)
class Span:
    """`directions`: float64 `(k, n)`, orthonormal. `n_rows`: how many there could be.

    `is_exact`: the update has no others. Elsewhere they are the larger half, which may still tell something.
    """

    directions: Tensor
    n_rows: int
    is_exact: bool


def span_of(rows: Tensor, *, error: float) -> Span | None:
    """The directions of an update's rows `(m, n)`; None where they are nothing but rounding.

    Where the singular values do not end in rounding, but fall far at once, what is behind the fall comes from later
    steps: the factors have moved a little by then.

    Args:
        rows: float32 or float64.
        error: how far a number of them may be off, by rounding.
    """
    rows = rows.double()
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    # The largest singular value of a matrix of independent errors is near its error times this sum of roots.
    floor = error * sum(size**0.5 for size in rows.shape)
    n_rows, n_kept = len(values), int((values > floor).sum())
    if n_kept == 0:
        return None
    n_most = int(_MOST * n_rows)
    if n_kept == n_rows and n_most:
        falls = values[:n_most] / values[1 : n_most + 1]
        n_kept = int(falls.argmax()) + 1 if float(falls.max()) >= _GAP else n_rows
    is_exact = n_kept < n_rows
    if not is_exact:
        n_kept = (n_rows + 1) // 2
    return Span(directions[:n_kept], n_rows, is_exact)


def distances(span: Span, candidates: Tensor) -> Tensor:
    """How far candidates `(..., n)` are outside of the span, over their length: `(...)`, from 0 to 1."""
    candidates = candidates.double()
    inside = (candidates @ span.directions.T).square().sum(-1)
    whole = candidates.square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return (1 - inside / whole).clamp(min=0).sqrt()
