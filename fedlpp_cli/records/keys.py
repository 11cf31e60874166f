"""Public keys: as text in files and in `client.toml`, and what a result says of who signed.

`ed25519:<base64>`, or the same with a space and a name behind it. The name is whatever the reader wrote there: it is no
part of the key, and no signature covers it.
"""

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from fedlpp_cli.records.record import Digest, Record

_TEXT: Final = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=)(?: ([a-z0-9][a-z0-9_-]{0,62}))?")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key, 32 bytes. Two are equal whatever they are called."""

    raw: bytes
    name: str | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """As it is written, without the name."""
        return f"ed25519:{base64.b64encode(self.raw).decode('ascii')}"

    @property
    def line(self) -> str:
        """As it is written, with the name."""
        return self.text if self.name is None else f"{self.text} {self.name}"

    @property
    def fingerprint(self) -> str:
        """sha256 of the 32 bytes, lower-case hex: what people compare."""
        return hashlib.sha256(self.raw).hexdigest()


class Signer(Record, frozen=True, kw_only=True):
    """Whose good signature a package or a transcript has.

    `trusted`: it is one of the keys that were asked for; `name` is what the list of those calls it.
    """

    fingerprint: Digest
    name: str | None
    trusted: bool


def parse_public_key(text: str) -> PublicKey:
    """The key that `text` is.

    Raises:
        ValueError: it is none, or not in the one spelling that it has.
    """
    found = _TEXT.fullmatch(text)
    key = None if found is None else PublicKey(base64.b64decode(found[1]), found[2])
    # Two bits of the last letter say nothing; with them set one key would have several texts.
    if key is None or key.line != text:
        raise ValueError(f"{text!r:.80} is no public key, which is ed25519:… as in the .pub file of keygen")
    return key


def signers_of(keys: Collection[PublicKey], trusted: Collection[PublicKey]) -> tuple[Signer, ...]:
    """What a result says of the keys that signed.

    Args:
        keys: whose signatures were verified.
        trusted: whose were asked for.
    """
    names = {key: key.name for key in trusted}
    return tuple(Signer(fingerprint=key.fingerprint, name=names.get(key), trusted=key in names) for key in keys)
