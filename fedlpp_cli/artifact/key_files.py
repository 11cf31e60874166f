"""Key pairs on disk: the private key in PEM (PKCS #8), mode 0600, and beside it the public one, a line of text.

A private key that anybody else may read is not used: whoever can read it can sign. It is looked at through one
descriptor, so that what was checked is what was read.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlpp_cli.artifact.regular import input_errors, open_regular, read_regular
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.errors import InputError, OutputExistsError, SecrecyError, UsageError
from fedlpp_cli.records.keys import PublicKey, parse_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE_SUFFIX: Final = ".pem"
PUBLIC_SUFFIX: Final = ".pub"
_MAX_BYTES: Final = 8192
_BEGIN: Final = b"-----BEGIN "
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_PLAIN: Final = b"-----BEGIN PRIVATE KEY-----"

# Asked for only when it is needed: an unencrypted key needs none.
Passphrase = Callable[[], str]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that has been opened. It never shows what it holds."""

    public: PublicKey
    _private: "Ed25519PrivateKey" = field(repr=False, compare=False)

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, 64 bytes."""
        return self._private.sign(message)


def fingerprints_of(keys: Sequence[SigningKey]) -> tuple[str, ...]:
    """The fingerprints of the keys that sign something.

    Raises:
        UsageError: one key twice.
    """
    found = tuple(key.public.fingerprint for key in keys)
    if len(set(found)) < len(found):
        raise UsageError("--sign: the same key twice")
    return found


def check_no_keys(private: Path) -> None:
    """Refuse to write over a key pair, by force or not: nobody can make a lost key again.

    Raises:
        OutputExistsError: one of the two files is there.
    """
    for path in (private, public_path(private)):
        if os.path.lexists(path):
            raise OutputExistsError(f"{path} exists; keys are not written over", hint="another --out")


def public_path(private: Path) -> Path:
    """Where the public key lies: owner.pub beside owner.pem."""
    return private.with_name(private.name.removesuffix(PRIVATE_SUFFIX) + PUBLIC_SUFFIX)


def write_key_pair(private: Path, name: str, passphrase: bytes | None) -> PublicKey:
    """Draw a key from the system's randomness and write both files, each whole or not at all; the public key.

    The private one gets its name last: a public key alone does no harm.

    Args:
        private: where the private key goes, mode 0600.
        name: what the public key's file calls it.
        passphrase: to encrypt the private key with; None leaves it as it is.

    Raises:
        OutputExistsError: one of the two files is there.
        OutputError: no space, no permission.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    check_no_keys(private)
    made = Ed25519PrivateKey.generate()
    key = PublicKey(made.public_key().public_bytes_raw(), name)
    with whole_file(private, private=True) as descriptor, output_errors(private):
        write_all(descriptor, _pem(made, passphrase), 0)
        with whole_file(public_path(private)) as beside:
            write_all(beside, f"{key.line}\n".encode("ascii"), 0)
    return key


def read_signing_key(path: Path, passphrase: Passphrase) -> SigningKey:
    """Open a private key.

    Args:
        path: the PEM file.
        passphrase: called if the key is encrypted.

    Raises:
        InputError: missing, unreadable, not a private Ed25519 key in PKCS #8, or another passphrase.
        SecrecyError: others than its owner may read or write the file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_private(path)
    is_encrypted = pem.startswith(_ENCRYPTED)
    try:
        opened = load_pem_private_key(pem, passphrase().encode() if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own sentence may name bytes of the key's structure; this one cannot.
        raise InputError(f"{path}: {'wrong passphrase, or ' if is_encrypted else ''}a damaged key") from None
    if not isinstance(opened, Ed25519PrivateKey):
        raise InputError(f"{path}: a private key of another kind, Ed25519 is needed")
    return SigningKey(PublicKey(opened.public_key().public_bytes_raw()), opened)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key's file.

    Raises:
        InputError: missing, unreadable, or not one line with a public key.
    """
    raw = read_regular(path, _MAX_BYTES)
    if raw.startswith(_BEGIN):
        raise InputError(f"{path}: in PEM; the public key is needed, as keygen writes it", hint=f"{public_path(path)}")
    try:
        return parse_public_key(raw.decode("ascii", errors="replace").removesuffix("\n"))
    except ValueError as problem:
        raise InputError(f"{path}: {problem}") from None


def _pem(key: "Ed25519PrivateKey", passphrase: bytes | None) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from fedlpp_cli.artifact.encrypted_pem import encrypt_pem

    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encrypt_pem(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase)


def _read_private(path: Path) -> bytes:
    with os.fdopen(open_regular(path), "rb") as stream, input_errors(path):
        mode, pem = stat.S_IMODE(os.fstat(stream.fileno()).st_mode), stream.read(_MAX_BYTES)
    if not pem.startswith((_ENCRYPTED, _PLAIN)):
        raise InputError(f"{path}: not a private key in PEM (PKCS #8)", hint="fedlpp keygen makes one")
    if mode & 0o077:
        raise SecrecyError(
            f"{path}: a private key that others may open (mode {mode:04o}, 0600 is needed)",
            hint=f"chmod 600 {path}; if others have read it, make another key",
        )
    return pem
