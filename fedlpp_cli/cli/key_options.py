"""Options about keys: what signs, who is trusted, and where a passphrase comes from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedlpp_cli.cli.screen import ask_secret
from fedlpp_cli.errors import InputError, UsageError
from fedlpp_cli.records.keys import PublicKey, parse_public_key

if TYPE_CHECKING:
    from fedlpp_cli.artifact.key_files import Passphrase, SigningKey

_VARIABLE: Final = "FEDLPP_PASSPHRASE"
_MAX_BYTES: Final = 4096

SignOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--sign",
        metavar="KEY",
        help="Sign with this private key, which keygen made; repeat it for several.",
        show_default=False,
    ),
]
SignerOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--signer",
        metavar="KEY",
        help="Take only what this key has signed: a .pub file, or ed25519:…; repeat it for any of several.",
        show_default=False,
    ),
]
PassphraseFileOpt = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="What is in it, but for the end of the line, opens the private key.",
        show_default=f"{_VARIABLE}, or you are asked",
    ),
]


def trusted_keys(signers: Sequence[str] | None) -> tuple[PublicKey, ...]:
    """The keys that --signer names.

    Raises:
        InputError, UsageError: a file that cannot be read, a text that is no key.
    """
    return tuple(_public_key(text) for text in signers or ())


def signing_keys(sign: Sequence[Path] | None, passphrase_file: Path | None) -> tuple["SigningKey", ...]:
    """The keys that --sign names, opened; asks for passphrases if it has to.

    Raises:
        InputError, SecrecyError: as `read_signing_key`.
        UsageError: nobody can be asked; a passphrase file for nothing.
    """
    if not sign:
        if passphrase_file is not None:
            raise UsageError("--passphrase-file goes with --sign")
        return ()
    from fedlpp_cli.artifact.key_files import read_signing_key

    return tuple(read_signing_key(path, passphrase_of(path, passphrase_file)) for path in sign)


def passphrase_of(key: Path, file: Path | None) -> "Passphrase":
    """How to come by the passphrase of a key that is there."""
    return lambda: _given(file) or ask_secret(f"Passphrase of {key}: ", hint=_WAYS)


def new_passphrase(file: Path | None) -> "Passphrase":
    """How to come by the passphrase of a new key: a person types it twice."""

    def ask() -> str:
        given = _given(file)
        if given is not None:
            return given
        first = ask_secret("Passphrase: ", hint=f"{_WAYS}, or --no-passphrase")
        if ask_secret("The same again: ", hint=_WAYS) != first:
            raise UsageError("the two passphrases differ")
        return first

    return ask


_WAYS: Final = f"--passphrase-file FILE, or {_VARIABLE}"


def _public_key(text: str) -> PublicKey:
    if not text.startswith("ed25519:"):
        from fedlpp_cli.artifact.key_files import read_public_key

        return read_public_key(Path(text))
    try:
        return parse_public_key(text)
    except ValueError as problem:
        raise UsageError(f"--signer: {problem}") from None


def _given(file: Path | None) -> str | None:
    """What a file or the environment says; None where neither does."""
    if file is None:
        return os.environ.get(_VARIABLE) or None
    try:
        # A pipe is fine here, such as <(pass show fedlpp): this file is the user's own.
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not text in UTF-8") from None
    passphrase = text.removesuffix("\n").removesuffix("\r")
    if not passphrase or "\n" in passphrase:
        raise InputError(f"{file}: one line with a passphrase is needed")
    return passphrase
