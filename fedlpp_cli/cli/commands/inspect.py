"""`fedlpp inspect`."""

from typing import Annotated

import typer

from fedlpp_cli.records.record import Record

ArtifactArg = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="Any artifact: a path, or hf://…", show_default=False)
]


def inspect(artifact: ArtifactArg) -> Record:
    """Show an artifact's header and tensors, whatever it is and wherever it came from.

    fedlpp inspect proxy.safetensors
    fedlpp inspect package --json
    """
    from fedlpp_cli.steps.inspect import inspect as step

    return step(artifact)
