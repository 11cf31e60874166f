"""Keys that are the same in every run, and packages that they sign."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedlpp_cli.artifact.encrypted_pem import encrypt_pem
from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.artifact.key_files import SigningKey
from fedlpp_cli.artifact.signatures import SIGNATURES, sign_manifest
from fedlpp_cli.records.keys import PublicKey

PASSPHRASE = "correct horse battery"


def private_key(number: int) -> Ed25519PrivateKey:
    """The library's."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def signing_key(number: int, name: str | None = None) -> SigningKey:
    """As `read_signing_key` gives it."""
    key = private_key(number)
    return SigningKey(PublicKey(key.public_key().public_bytes_raw(), name), key)


def write_keys(path: Path, number: int, *, name: str = "clinic", passphrase: str | None = None) -> PublicKey:
    """A key pair's two files."""
    key = private_key(number)
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem if passphrase is None else encrypt_pem(plain, passphrase.encode()))
    path.chmod(0o600)
    public = signing_key(number, name).public
    path.with_suffix(".pub").write_text(f"{public.line}\n")
    return public


def sign_copy(package: Path, target: Path, keys: Sequence[SigningKey]) -> Path:
    """A copy of a package, signed."""
    shutil.copytree(package, target)
    (target / SIGNATURES).write_bytes(sign_manifest((target / MANIFEST).read_bytes(), keys))
    return target
