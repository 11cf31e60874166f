"""`fedlpp keygen`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import key_options as k
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.record import Record

KeyOutOpt = Annotated[
    str,
    typer.Option("--out", "-o", metavar="PATH", help="Where the private key goes; the public one lies beside it."),
]
NameOpt = Annotated[str, typer.Option("--name", help="What others shall call the key: a-z 0-9 _ -.")]
NoPassphraseOpt = Annotated[
    bool, typer.Option("--no-passphrase", help="Do not encrypt it: whoever can read the file can sign.")
]


def keygen(
    out: KeyOutOpt,
    name: NameOpt,
    passphrase_file: k.PassphraseFileOpt = None,
    no_passphrase: NoPassphraseOpt = False,
) -> Record:
    """Make a key pair to sign packages and transcripts with: the private key stays with you, others get the public one.

    fedlpp keygen --name clinic --out clinic.pem
    fedlpp keygen --name clinic --passphrase-file /run/secrets/fedlpp --out clinic.pem
    """
    from fedlpp_cli.steps.keygen import keygen as step

    if no_passphrase and passphrase_file is not None:
        raise UsageError("--no-passphrase and --passphrase-file do not go together")
    return step(out, name=name, passphrase=None if no_passphrase else k.new_passphrase(passphrase_file))
