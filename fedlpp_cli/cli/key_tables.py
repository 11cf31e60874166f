"""Keys and signatures as people read them."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, short


def keygen(result: Any) -> Iterable[Block]:
    """A new key pair. The fingerprint is whole: a short one can be imitated."""
    yield facts([
        ("name", result.name),
        ("fingerprint", result.fingerprint),
        ("public key", f"{result.public}, to hand out"),
        ("private key", "encrypted" if result.encrypted else "not encrypted: whoever reads the file can sign"),
    ])  # fmt: skip


def signers_text(signers: Iterable[Any]) -> str | None:
    """Who signed; unknown is whom nobody had asked for. None for nobody."""
    return ", ".join(_signer(one) for one in signers) or None


def fingerprints(signers: Iterable[Any]) -> str | None:
    """Whole fingerprints; None for none."""
    return ", ".join(one.fingerprint for one in signers) or None


def _signer(signer: Any) -> str:
    start = short(signer.fingerprint)
    if not signer.trusted:
        return f"unknown key {start}"
    return f"{start}" if signer.name is None else f"{signer.name} ({start})"
