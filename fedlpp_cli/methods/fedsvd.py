"""FedSVD (Lee et al., NeurIPS 2025, arXiv 2505.12805): FFA-LoRA whose A follows what has been learned.

Clients train and send B. The owner folds it, and splits the product B A anew: with B A = U S V', A becomes V' and B
becomes U S. The model stays the same, A has orthonormal rows, and its directions are those that the product uses. It
is made of what the owner has already, so that it costs no privacy.
"""

from typing import TYPE_CHECKING, Final

from fedlpp_cli.methods.method import Asked, Method, refuse_for_one_factor
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorPlan

if TYPE_CHECKING:
    from torch import Tensor


def refactor(b: "Tensor", a: "Tensor") -> "tuple[Tensor, Tensor]":
    """The same product with an A of orthonormal rows; where B is zero, before anything is learned, nothing changes.

    With B = Q_B R_B and A' = Q_A R_A the product's singular vectors are those of the small core R_B R_A', put into the
    bases Q: the product itself, of the size of the model's weight, is never made. Terms come largest first, so that
    the first ones are the best factors of any lower rank. Of the two signs of a pair of vectors the one is taken with
    which the row of A has its largest entry positive.

    Args:
        b: float64 `(out_features, rank)`.
        a: float64 `(rank, in_features)`.
    """
    import torch

    from fedlpp_cli.aggregation.threads import one_thread

    rank = len(a)
    if not bool(b.any()) or rank > min(a.shape[1], b.shape[0]):  # no such A has orthonormal rows, or no such B
        return b, a
    with one_thread():
        basis_b, core_b = torch.linalg.qr(b)
        basis_a, core_a = torch.linalg.qr(a.T)
        left, values, right = torch.linalg.svd(core_b @ core_a.T)
        new_b, new_a = basis_b @ (left * values), right @ basis_a.T
    largest = new_a.gather(1, torch.from_numpy(new_a.abs().numpy().argmax(axis=1))[:, None])
    signs = torch.where(largest < 0, -1.0, 1.0).to(torch.float64)
    return new_b * signs.T, new_a * signs


def _plan(master: MasterSpec, round_number: int) -> FactorPlan:
    return FactorPlan(trains="B")


def _refuse(asked: Asked) -> str | None:
    if asked.update is not None and asked.update.is_rounded:
        return "updates cannot be rounded: what rounding takes from one is of factors that are gone in the next round"
    if asked.is_masked:
        return "masks hide rows of B, and its A, which travels, is made of all of them"
    if asked.aggregate is not None and asked.aggregate.server_optimizer != "sgd":
        optimizer = asked.aggregate.server_optimizer
        return f"server optimizer {optimizer!r} remembers factors, and they are made anew each round"
    return refuse_for_one_factor(asked)


METHOD: Final = Method(
    name="fedsvd",
    paper="Lee et al., NeurIPS 2025, arXiv 2505.12805",
    down="A and B, rounded",
    up="B",
    private="A and B in full precision",
    cost="r (m + n) down, r m up; at the owner's two QR of r columns and an SVD of r x r",
    plan=_plan,
    refuse=_refuse,
    finish=refactor,
)
