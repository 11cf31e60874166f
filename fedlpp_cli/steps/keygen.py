"""`keygen`: a key pair to sign packages and transcripts with."""

from typing import Final

import msgspec

from fedlpp_cli.artifact.key_files import Passphrase, check_no_keys, public_path, write_key_pair
from fedlpp_cli.errors import SecrecyError, UsageError
from fedlpp_cli.records.record import Digest, PartyName, Record
from fedlpp_cli.refs import HubRef, parse_ref
from fedlpp_cli.steps.inputs import RefLike

_MIN_CHARACTERS: Final = 8
_MAX_BYTES: Final = 1023  # what OpenSSL takes


class KeygenResult(Record, frozen=True, kw_only=True):
    """What `keygen` made. `path`: the private key; `public`: the file to hand out, whose line is `key`."""

    path: str
    public: str
    name: PartyName
    key: str
    fingerprint: Digest
    encrypted: bool


def keygen(out: RefLike, *, name: str, passphrase: Passphrase | None) -> KeygenResult:
    """Draw an Ed25519 key pair and write it: the private key, mode 0600, and beside it the public one.

    Args:
        out: the private key's file, owner.pem; the public one is owner.pub.
        name: what others shall call the key.
        passphrase: gives what to encrypt the private key with; None leaves it readable to whoever has the file.

    Raises:
        OutputExistsError: one of the two files is there.
        OutputError: no space, no permission.
        SecrecyError: a private key for the Hub.
        UsageError: a name that no party may have; a passphrase that is too short, or too long.
    """
    place = parse_ref(out)
    if isinstance(place, HubRef):
        raise SecrecyError(f"{place}: private keys are not written to the Hub", hint="a path of your own")
    try:
        msgspec.convert(name, PartyName)
    except msgspec.ValidationError:
        raise UsageError(f"--name {name!r:.80}: up to 63 of a-z 0-9 _ - are needed") from None
    check_no_keys(place)
    key = write_key_pair(place, name, None if passphrase is None else _checked(passphrase()))
    return KeygenResult(
        path=str(place),
        public=str(public_path(place)),
        name=name,
        key=key.line,
        fingerprint=key.fingerprint,
        encrypted=passphrase is not None,
    )


def _checked(passphrase: str) -> bytes:
    raw = passphrase.encode()
    if len(passphrase) < _MIN_CHARACTERS or len(raw) > _MAX_BYTES:
        raise UsageError(f"a passphrase has {_MIN_CHARACTERS} characters at least, and {_MAX_BYTES} bytes at most")
    return raw
