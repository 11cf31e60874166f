"""A private key under a passphrase: PKCS #8 in PEM, encrypted by PBES2 with scrypt and AES-256-CBC.

RFC 5958 (the structure), RFC 8018 section 6.2 (PBES2), RFC 7914 section 7 (scrypt in it). Written here because
`cryptography` writes PBKDF2 with 2048 rounds only, which a GPU tries out by the million; it reads scrypt, and so does
OpenSSL as long as scrypt takes less than 32 MiB.
"""

import base64
import secrets
import textwrap
from typing import Final

# 16 MiB, five times over: one of OWASP's equal choices (Password Storage Cheat Sheet), and the largest N for OpenSSL.
_N: Final = 2**14
_R: Final = 8
_P: Final = 5

# DER of object identifiers, tag and length included.
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")  # 2.16.840.1.101.3.4.1.42
_SEQUENCE: Final = 0x30
_OCTETS: Final = 0x04
_INTEGER: Final = 0x02


def encrypt_pem(private: bytes, passphrase: bytes) -> bytes:
    """The PEM of a key, encrypted.

    Args:
        private: PKCS #8 in DER, not encrypted.
        passphrase: what opens it.
    """
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    salt, start = secrets.token_bytes(16), secrets.token_bytes(16)
    key = Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(start)).encryptor()
    hidden = encryptor.update(padder.update(private) + padder.finalize()) + encryptor.finalize()
    numbers = b"".join(_der(_INTEGER, _unsigned(number)) for number in (_N, _R, _P))
    derivation = _der(_SEQUENCE, _SCRYPT + _der(_SEQUENCE, _der(_OCTETS, salt) + numbers))
    cipher = _der(_SEQUENCE, _AES_256_CBC + _der(_OCTETS, start))
    algorithm = _der(_SEQUENCE, _PBES2 + _der(_SEQUENCE, derivation + cipher))
    whole = _der(_SEQUENCE, algorithm + _der(_OCTETS, hidden))
    lines = textwrap.wrap(base64.b64encode(whole).decode("ascii"), 64)
    label = "ENCRYPTED PRIVATE KEY"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length, content."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x80 | len(_bytes(size))]) + _bytes(size)
    return bytes([tag]) + length + content


def _unsigned(number: int) -> bytes:
    """With a zero in front where the first bit would make it negative."""
    raw = _bytes(number)
    return b"\0" + raw if raw[0] & 0x80 else raw


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
