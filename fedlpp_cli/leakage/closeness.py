"""How near an attacker's adapter comes to the owner's, in numbers of the adapters alone.

Factors have a freedom that products have not: B G and G^-1 A are the same adapter. So the error of the product `s B A`
is the one that counts, and those of the factors tell whether the attacker has the very numbers. The scaling `s` is the
same on both sides and divides out.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.aggregation.threads import one_thread
from fedlpp_cli.leakage.averaging import Values


@dataclass(frozen=True, slots=True)
class Closeness:
    """Distances over all layers.

    `error_a`, `error_b`, `error_product`: Frobenius norm of the difference to the owner's factors A, factors B and
    products `B A`, over that of the owner's; None where the owner's is zero, or, of factors, where ranks differ.
    `cosine_product`: of the angle between both products, all layers as one vector; None where one of them is zero.
    `snr_db`: -20 log10 of `error_product`, the owner's product over the error in decibels; None where there is no
    error. `revealed`: share of all the owner's numbers, heads among them, that the attacker has up to the tolerance;
    None where ranks differ.
    """

    error_a: float | None
    error_b: float | None
    error_product: float | None
    cosine_product: float | None
    snr_db: float | None
    revealed: float | None


def closeness(
    found: Values, owner: Values, *, tolerance: float = 0.0, public: Collection[str] = frozenset()
) -> Closeness:
    """Compare two adapters of the same modules and the same scaling `s`.

    Products are compared through QR of thin factors, in float64: `B A` is never made, and, other than with Gram
    matrices alone, an error far below 1e-8 is still seen.

    Args:
        found: the attacker's, component to value float32.
        owner: the owner's. Ranks may differ.
        tolerance: a number is revealed if it is off by at most this part of the owner's; 0 for bit for bit. The
            largest weight of a block, behind a scale in fp16, is known to 2^-11.
        public: components that everybody has, such as factors that clients draw; none of their numbers is revealed.

    Raises:
        ValueError: other components, or other shapes but for the rank.
    """
    if found.keys() != owner.keys():
        raise ValueError(f"adapters differ in {sorted(found.keys() ^ owner.keys())[:3]}")
    modules = factor_modules(owner)
    products = _Products()
    with one_thread():
        for module in modules:
            products.add(
                *((values[factor_b(module)].double(), values[factor_a(module)].double()) for values in (found, owner))
            )
    same = all(found[name].shape == owner[name].shape for name in owner)
    return Closeness(
        error_a=_error(found, owner, [factor_a(module) for module in modules]) if same else None,
        error_b=_error(found, owner, [factor_b(module) for module in modules]) if same else None,
        error_product=products.error,
        cosine_product=products.cosine,
        snr_db=-20 * math.log10(products.error) if products.error else None,
        revealed=_revealed(found, {name: owner[name] for name in owner if name not in public}, tolerance)
        if same
        else None,
    )


class _Products:
    """Sums over layers: of squares of both sides and of their difference, and of the product of one with the other."""

    def __init__(self) -> None:
        self._found = self._owner = self._difference = self._both = 0.0

    def add(self, found: tuple[Tensor, Tensor], owner: tuple[Tensor, Tensor]) -> None:
        """B and A of one layer, float64."""
        (found_b, found_a), (owner_b, owner_a) = found, owner
        self._found += _squared_product(found_b, found_a)
        self._owner += _squared_product(owner_b, owner_a)
        self._difference += _squared_product(torch.cat([found_b, owner_b], dim=1), torch.cat([found_a, -owner_a]))
        self._both += float(((found_b.T @ owner_b) * (found_a @ owner_a.T)).sum())

    @property
    def error(self) -> float | None:
        """Relative error."""
        return math.sqrt(self._difference / self._owner) if self._owner else None

    @property
    def cosine(self) -> float | None:
        """Of the angle between both."""
        norms = math.sqrt(self._found) * math.sqrt(self._owner)
        return max(-1.0, min(1.0, self._both / norms)) if norms else None


def _squared_product(b: Tensor, a: Tensor) -> float:
    """Squared Frobenius norm of `b a`."""
    core_b, core_a = torch.linalg.qr(b, mode="r").R, torch.linalg.qr(a.T, mode="r").R
    return float((core_b @ core_a.T).square().sum())


def _error(found: Values, owner: Values, names: Sequence[str]) -> float | None:
    squares = sum(float(owner[name].double().square().sum()) for name in names)
    if not squares:
        return None
    return math.sqrt(
        sum(float((found[name].double() - owner[name].double()).square().sum()) for name in names) / squares
    )


def _revealed(found: Values, owner: Values, tolerance: float) -> float:
    n_revealed = sum(
        int(((found[name].double() - value.double()).abs() <= tolerance * value.double().abs()).sum())
        for name, value in owner.items()
    )
    return n_revealed / sum(value.numel() for value in owner.values())
