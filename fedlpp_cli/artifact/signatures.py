"""Who made a package or a transcript: a file with Ed25519 signatures beside what they are of.

Of a package: `manifest.sig.json` in its folder, over the bytes of its manifest, which lists every other file with size
and sha256, and says federation, round and client. Of a transcript: `NAME.sig.json` beside the file NAME, over its
sha256. What is signed begins with the scheme and the length of the rest, so that nothing else that a key ever signs can
pass for it. A file with one signature that does not fit is refused, whoever else signed.
"""

import base64
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from fedlpp_cli import canonical
from fedlpp_cli.artifact.key_files import SigningKey
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import check_absent, output_errors, whole_file, write_all
from fedlpp_cli.errors import ArtifactError, SignatureError, SignerError
from fedlpp_cli.records.keys import PublicKey, parse_public_key
from fedlpp_cli.records.record import Record, read_record, to_plain

SIGNATURES: Final = "manifest.sig.json"
# Behind the whole name of a file that is signed as it is.
SUFFIX: Final = ".sig.json"
MAX_SIGNATURES: Final = 16
MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Scheme:
    """What is signed, and how errors speak of it: `part` is what the signatures are over."""

    name: Literal["fedlpp package v1", "fedlpp transcript v1"]
    part: str
    maker: str
    command: str


PACKAGE: Final = Scheme("fedlpp package v1", "manifest", "the owner", "fedlpp pack --sign")
TRANSCRIPT: Final = Scheme("fedlpp transcript v1", "transcript", "the teacher", "fedlpp distill publish --sign")


class _Signature(Record, frozen=True, kw_only=True):
    """`key`: as in the key's own file, without a name. `value`: 64 bytes in base64."""

    key: str
    value: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{86}==$(?!\n)")]


class _SignatureFile(Record, frozen=True, kw_only=True):
    """Signatures in the order of their keys."""

    scheme: Literal["fedlpp package v1", "fedlpp transcript v1"]
    signatures: Annotated[tuple[_Signature, ...], Meta(min_length=1, max_length=MAX_SIGNATURES)]


def signed_bytes(content: bytes, scheme: Scheme = PACKAGE) -> bytes:
    """What is signed: the scheme's name, a zero byte, the content's length (8 bytes, big-endian), the content."""
    return scheme.name.encode("ascii") + b"\0" + len(content).to_bytes(8, "big") + content


def sign_manifest(manifest: bytes, keys: Sequence[SigningKey]) -> bytes:
    """The signature file for these bytes of a manifest. Equal keys give equal bytes: Ed25519 draws nothing."""
    return _sign(manifest, PACKAGE, keys)


def sign_transcript(sha256: str, keys: Sequence[SigningKey]) -> bytes:
    """The signature file for a transcript with this sha256, which is signed as 64 lower-case hex digits."""
    return _sign(sha256.encode("ascii"), TRANSCRIPT, keys)


def write_transcript_signatures(transcript: Path, sha256: str, keys: Sequence[SigningKey], *, force: bool) -> None:
    """Put the signatures of a transcript beside it; without keys, see to it that there are none of another one.

    Args:
        transcript: the file, which gets its name afterwards: signatures alone do no harm.
        sha256: of its bytes.
        keys: who signs.
        force: replace or remove signatures that lie there.

    Raises:
        OutputExistsError: signatures lie there, and `force` is not set.
        OutputError: no space, no permission.
    """
    beside = signatures_beside(transcript)
    if keys:
        with whole_file(beside, force=force) as descriptor, output_errors(beside):
            write_all(descriptor, sign_transcript(sha256, keys), 0)
        return
    check_absent(beside, force=force)
    with output_errors(beside):
        beside.unlink(missing_ok=True)


def read_signatures(folder: Path, manifest: bytes) -> tuple[PublicKey, ...]:
    """Whose signatures lie beside a manifest, all of them good; none where there is no signature file.

    Args:
        folder: the package's.
        manifest: the bytes of its manifest, as they were read and will be used.

    Raises:
        InputError: a signature file that is unreadable or not a plain file.
        SignatureError: damaged, without a signature, or with one that does not fit.
    """
    return _read(folder / SIGNATURES, manifest, PACKAGE)


def read_transcript_signatures(transcript: Path, sha256: str) -> tuple[PublicKey, ...]:
    """Whose signatures lie beside a transcript, all of them good; none where there is no signature file.

    Args:
        transcript: the file.
        sha256: of the bytes that will be used.

    Raises:
        InputError, SignatureError: as `read_signatures`.
    """
    return _read(signatures_beside(transcript), sha256.encode("ascii"), TRANSCRIPT)


def signatures_beside(path: Path) -> Path:
    """Where the signatures of a file lie: north.safetensors.sig.json beside north.safetensors."""
    return path.with_name(path.name + SUFFIX)


def check_signers(
    found: Collection[PublicKey], allowed: Collection[PublicKey], *, source: str, scheme: Scheme = PACKAGE
) -> None:
    """Refuse what none of the allowed keys has signed; without any allowed key, nothing.

    Raises:
        SignerError: not signed, or by others.
    """
    if not allowed or any(key in allowed for key in found):
        return
    wanted = " or ".join(sorted(_call(key) for key in allowed))
    if not found:
        hint = f"ask {scheme.maker} for {scheme.command}"
        raise SignerError(f"{source}: not signed; a signature of {wanted} is needed", hint=hint)
    others = ", ".join(_call(key) for key in found)
    hint = f"if {scheme.maker} has a new key, compare fingerprints over another channel before you allow it"
    raise SignerError(f"{source}: signed by {others}; a signature of {wanted} is needed", hint=hint)


def _call(key: PublicKey) -> str:
    short = f"{key.fingerprint[:12]}…"
    return short if key.name is None else f"{key.name} ({short})"


def _sign(content: bytes, scheme: Scheme, keys: Sequence[SigningKey]) -> bytes:
    message = signed_bytes(content, scheme)
    made = [
        _Signature(key=key.public.text, value=base64.b64encode(key.sign(message)).decode("ascii"))
        for key in sorted(keys, key=lambda key: key.public.text)
    ]
    return canonical.encode(to_plain(_SignatureFile(scheme=scheme.name, signatures=tuple(made))))


def _read(path: Path, content: bytes, scheme: Scheme) -> tuple[PublicKey, ...]:
    if not os.path.lexists(path):
        return ()
    found = _decode(read_regular(path, MAX_BYTES + 1, follow=False), source=str(path))
    if found.scheme != scheme.name:
        raise SignatureError(f"{path}: scheme is {found.scheme!r}, {scheme.name!r} is needed")
    message = signed_bytes(content, scheme)
    return tuple(_verified(one, message, scheme, source=str(path)) for one in found.signatures)


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


def _verified(one: _Signature, message: bytes, scheme: Scheme, *, source: str) -> PublicKey:
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
            f"{source}: the signature of {_call(key)} does not fit the {scheme.part}; one of the two was changed",
            hint=f"fetch both again, or ask {scheme.maker}",
        ) from None
    return key
