"""`fedlpp verify`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import key_options as k
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.records.record import Record

VerifyArg = Annotated[
    list[str], typer.Argument(metavar="ARTIFACT...", help="Artifacts of any kind, or run folders.", show_default=False)
]
CompleteOpt = Annotated[bool, typer.Option("--complete", help="Every parent must be among them.")]
RerunOpt = Annotated[
    bool, typer.Option("--rerun", help="Compute each aggregate again whose inputs are among them, and compare.")
]


def verify(
    artifacts: VerifyArg, complete: CompleteOpt = False, rerun: RerunOpt = False, signer: k.SignerOpt = None
) -> Record:
    """Check digests, signatures, headers, layouts, and that artifacts follow from one another.

    fedlpp verify package
    fedlpp verify package --signer clinic.pub
    fedlpp verify north.transcript.safetensors --signer north.pub
    fedlpp verify runs/demo --complete --rerun
    fedlpp verify --rerun next.safetensors master.safetensors package updates/*.safetensors
    """
    from fedlpp_cli.steps.verify import verify as step

    signers = k.trusted_keys(signer)
    return step(artifacts, complete=complete, rerun=rerun, signers=signers, on_progress=on_progress)
