"""Masks in words."""

from typing import Any


def mask_text(mask: Any, client: str | None, visible: float | None) -> str | None:
    """What a proxy hides; None without masks."""
    if mask is None or visible is None:
        return None
    whose = "all clients" if client is None else f"client {client}"
    fresh = ", others in each round" if mask.fresh else ""
    scaled = "scaled" if mask.scaling else "not scaled"
    return f"{whose}: {100 * visible:.3g} % of the factors B, {scaled}{fresh}"
