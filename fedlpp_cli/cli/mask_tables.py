"""Masks in words."""

from typing import Any


def base_mask_text(spec: Any) -> str:
    """What is hidden of a private base, to stand behind its name; nothing without a mask."""
    if spec is None or not spec.mask:
        return ""
    scaled = "" if spec.mask_scaling else "not "
    return f", {100 * spec.mask:.3g} % of its linear layers' output features hidden, {scaled}scaled"


def hidden_text(n_hidden: int, n_weights: int) -> str:
    """A share; nothing for none."""
    return f"{100 * n_hidden / n_weights:.3g} %" if n_hidden else ""


def mask_text(mask: Any, client: str | None, visible: float | None) -> str | None:
    """What a proxy hides; None without masks."""
    if mask is None or visible is None:
        return None
    whose = "all clients" if client is None else f"client {client}"
    fresh = ", others in each round" if mask.fresh else ""
    scaled = "scaled" if mask.scaling else "not scaled"
    return f"{whose}: {100 * visible:.3g} % of the factors B, {scaled}{fresh}"
