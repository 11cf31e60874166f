"""Who made a package: `manifest.sig.json` in its folder, with Ed25519 signatures over the bytes of its manifest.

The manifest lists every other file with size and sha256, and says federation, round and client: who signs it signs all
that. What is signed begins with the scheme and the manifest's length, so that nothing else that a key ever signs can
pass for a package. A file with one signature that does not fit is refused, whoever else signed.
"""

import base64
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from fedlpp_cli import canonical
from fedlpp_cli.artifact.key_files import SigningKey
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.errors import ArtifactError, SignatureError, SignerError
from fedlpp_cli.records.keys import PublicKey, parse_public_key
from fedlpp_cli.records.record import Record, read_record, to_plain

SIGNATURES: Final = "manifest.sig.json"
SCHEME: Final = "fedlpp package v1"
MAX_SIGNATURES: Final = 16
MAX_BYTES: Final = 4096


class _Signature(Record, frozen=True, kw_only=True):
    """`key`: as in the key's own file, without a name. `value`: 64 bytes in base64."""

    key: str
    value: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{86}==$(?!\n)")]


class _SignatureFile(Record, frozen=True, kw_only=True):
    """Signatures in the order of their keys."""

    scheme: Literal["fedlpp package v1"]
    signatures: Annotated[tuple[_Signature, ...], Meta(min_length=1, max_length=MAX_SIGNATURES)]


def signed_bytes(manifest: bytes) -> bytes:
    """What is signed: the scheme, a zero byte, the manifest's length (8 bytes, big-endian), the manifest."""
    return SCHEME.encode("ascii") + b"\0" + len(manifest).to_bytes(8, "big") + manifest


def sign_manifest(manifest: bytes, keys: Sequence[SigningKey]) -> bytes:
    """The signature file for these bytes of a manifest. Equal keys give equal bytes: Ed25519 draws nothing."""
    message = signed_bytes(manifest)
    made = [
        _Signature(key=key.public.text, value=base64.b64encode(key.sign(message)).decode("ascii"))
        for key in sorted(keys, key=lambda key: key.public.text)
    ]
    return canonical.encode(to_plain(_SignatureFile(scheme=SCHEME, signatures=tuple(made))))


def read_signatures(folder: Path, manifest: bytes) -> tuple[PublicKey, ...]:
    """Whose signatures lie beside a manifest, all of them good; none where there is no signature file.

    Args:
        folder: the package's.
        manifest: the bytes of its manifest, as they were read and will be used.

    Raises:
        InputError: a signature file that is unreadable or not a plain file.
        SignatureError: damaged, without a signature, or with one that does not fit.
    """
    path = folder / SIGNATURES
    if not os.path.lexists(path):
        return ()
    found = _decode(read_regular(path, MAX_BYTES + 1, follow=False), source=str(path))
    message = signed_bytes(manifest)
    return tuple(_verified(one, message, source=str(path)) for one in found.signatures)


def check_signers(found: Collection[PublicKey], allowed: Collection[PublicKey], *, source: str) -> None:
    """Refuse what none of the allowed keys has signed; without any allowed key, nothing.

    Raises:
        SignerError: not signed, or by others.
    """
    if not allowed or any(key in allowed for key in found):
        return
    wanted = " or ".join(sorted(_call(key) for key in allowed))
    if not found:
        hint = "ask the owner for fedlpp pack --sign"
        raise SignerError(f"{source}: not signed; a signature of {wanted} is needed", hint=hint)
    others = ", ".join(_call(key) for key in found)
    hint = "if the owner has a new key, compare fingerprints over another channel before you allow it"
    raise SignerError(f"{source}: signed by {others}; a signature of {wanted} is needed", hint=hint)


def _call(key: PublicKey) -> str:
    short = f"{key.fingerprint[:12]}…"
    return short if key.name is None else f"{key.name} ({short})"


def _decode(data: bytes, *, source: str) -> _SignatureFile:
    try:
        raw = canonical.decode_object(data, source=source, max_bytes=MAX_BYTES)
    except ArtifactError as error:
        raise SignatureError(str(error)) from None
    found = read_record(raw, _SignatureFile, source=source, error=SignatureError)
    keys = [one.key for one in found.signatures]
    if keys != sorted(set(keys)):
        raise SignatureError(f"{source}: a key is there twice, or keys are not in order")
    return found


def _verified(one: _Signature, message: bytes, *, source: str) -> PublicKey:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = parse_public_key(one.key)
    except ValueError as problem:
        raise SignatureError(f"{source}: {problem}") from None
    value = base64.b64decode(one.value)
    if key.name is not None or base64.b64encode(value).decode("ascii") != one.value:
        raise SignatureError(f"{source}: a key with a name, or base64 in another spelling than its own")
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(value, message)
    except (InvalidSignature, ValueError):
        raise SignatureError(
            f"{source}: the signature of {_call(key)} does not fit the manifest; one of the two was changed",
            hint="fetch the package again, or ask its owner",
        ) from None
    return key
