"""What is averaged: factors, or the products of which they are factors.

theta: the owner's factors; h: the product that the owner withholds so far (none at first); p, d, w of client k: the
factors that it started from, its update (after clipping) and its weight; eta: the server's learning rate. Of a module:

    dW_k = (p_B + d_B)(p_A + d_A) - p_B p_A         P = theta_B theta_A + h + eta (sum of w_k dW_k)

factors    A and B are averaged, those of lower rank filled up with zeros (HetLoRA, EMNLP 2024). Their product is not P:
           the mean of products is not the product of means
svd        the best factors of the master's rank for P; the rest is dropped (FlexLoRA, NeurIPS 2024, arXiv 2402.11505)
stack      the same factors; the rest is withheld, so that the owner has P (the exact sum of FLoRA, NeurIPS 2024,
           arXiv 2409.05976, which sends it all)
residual   the factors of "factors"; what is missing from their product to P is withheld (FedEx-LoRA, ACL 2025,
           arXiv 2410.09432, which adds it to everybody's base)

Every product here is thin: P = B diag(g) A with all factors side by side. With B = Q_B R_B and A' = Q_A R_A, all that
is asked of P is asked of the small core R_B diag(g) R_A'. P itself, of the size of the model's weight, is never made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fedlpp_cli.records.specs import Combine

# Of the norm of P: what is below it would be lost in float32, in which masters lie, beside the rest.
_NEGLIGIBLE: Final = 2.0**-24

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Stacked:
    """All factors of one module side by side, float64: `b` `(out_features, m)` and `a` `(m, in_features)`.

    `before` and `after` `(m,)`: what the terms count in the owner's product before the round and in P.
    `mean` `(m, rank)`: the factors of "factors" are `b mean` and `mean' a`.
    """

    b: Tensor
    a: Tensor
    before: Tensor
    after: Tensor
    mean: Tensor


@dataclass(frozen=True, slots=True)
class Combined:
    """The next factors of one module and what is withheld, pairs of B and A; without the scaling, float64.

    `factors` None: those of "factors". `moved`: the norm of the change of the owner's product.
    """

    factors: Pair | None
    withheld: Pair
    moved: float


def stack_factors(
    theta: Pair, withheld: Pair | None, trained: Sequence[tuple[Pair, float]], started: Sequence[tuple[Pair, float]],
    *, rate: float,
) -> Stacked:  # fmt: skip
    """Put factors side by side.

    Args:
        theta: the owner's, B and A.
        withheld: what the owner withholds so far, None for nothing.
        trained: of each client what it trained, and its weight.
        started: of each proxy what clients started from, and the sum of the weights of those who did.
        rate: the server's learning rate.
    """
    rank = theta[0].shape[1]
    known = [theta] if withheld is None else [theta, withheld]
    pairs = [*known, *(pair for pair, _ in trained), *(pair for pair, _ in started)]
    signed = [*(rate * weight for _, weight in trained), *(-rate * weight for _, weight in started)]
    before, after, mean = [], [], []
    for number, (b, _) in enumerate(pairs):
        width, is_new = b.shape[1], number >= len(known)
        counts = signed[number - len(known)] if is_new else 1.0
        before.append(torch.full((width,), 0.0 if is_new else 1.0, dtype=torch.float64))
        after.append(torch.full((width,), counts, dtype=torch.float64))
        in_mean = counts if is_new or number == 0 else 0.0
        mean.append(in_mean * torch.eye(width, rank, dtype=torch.float64))
    return Stacked(
        b=torch.cat([b for b, _ in pairs], dim=1),
        a=torch.cat([a for _, a in pairs]),
        before=torch.cat(before),
        after=torch.cat(after),
        mean=torch.cat(mean),
    )


def combine_products(stacked: Stacked, combine: Combine, spare: Tensor) -> Combined:
    """The next factors of a module.

    A singular value is split evenly, its root to A and its root to B, so that both train at like rates, and terms come
    largest first, so that the first ones are the best factors of any lower rank. Of two opposite pairs of vectors the
    one whose largest entry in B is positive is taken. Where P has a lower rank than the factors, the others start as at
    first: B zero and A from `spare`; two zeros would never train.

    Args:
        stacked: of this module.
        combine: "svd", "stack" or "residual".
        spare: float64 `(rank, in_features)`.
    """
    basis_b, core_b = torch.linalg.qr(stacked.b)
    basis_a, core_a = torch.linalg.qr(stacked.a.T)
    target = (core_b * stacked.after) @ core_a.T
    before = (core_b * stacked.before) @ core_a.T
    bases = basis_b, basis_a
    if combine == "residual":
        of_means = (core_b @ stacked.mean) @ (core_a @ stacked.mean).T
        rest = target - of_means
        size = max(_norm(target), _norm(of_means))
        return Combined(None, _split(bases, *_terms(rest, size)), _norm(target - before))
    left, values, right = _terms(target, _norm(target))
    rank = len(spare)
    first, others = (left[:, :rank], values[:rank], right[:rank]), (left[:, rank:], values[rank:], right[rank:])
    if combine == "svd":
        target, others = (first[0] * first[1]) @ first[2], (left[:, :0], values[:0], right[:0])
    factors = _filled(_split(bases, *first), spare)
    return Combined(factors, _split(bases, *others), _norm(target - before))


def _norm(core: Tensor) -> float:
    return float(torch.linalg.matrix_norm(core))


def _terms(core: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """The singular vectors and values that count beside `size`, largest first."""
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    n_terms = int((values > _NEGLIGIBLE * size).sum())
    return left[:, :n_terms], values[:n_terms], right[:n_terms]


def _split(bases: tuple[Tensor, Tensor], left: Tensor, values: Tensor, right: Tensor) -> Pair:
    """B and A whose product is that of the three in the middle of the bases."""
    b, a, root = bases[0] @ left, right @ bases[1].T, values.sqrt()
    largest = torch.from_numpy(b.abs().numpy().argmax(axis=0)) if len(values) else torch.zeros(0, dtype=torch.int64)
    signs = torch.where(b.gather(0, largest[None]) < 0, -1.0, 1.0).to(torch.float64)[0]
    return b * (signs * root), (signs * root)[:, None] * a


def _filled(factors: Pair, spare: Tensor) -> Pair:
    """Factors of the whole rank: what they have not is zero in B and spare in A."""
    b, a = factors
    n_terms = len(a)
    empty = torch.zeros(len(b), len(spare) - n_terms, dtype=torch.float64)
    return torch.cat([b, empty], dim=1), torch.cat([a, spare[n_terms:]])
