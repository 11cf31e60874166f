"""Options of a training that may take long: its checkpoint and its logs."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedlpp_cli.errors import UsageError

if TYPE_CHECKING:
    from fedlpp_cli.steps.checkpoints import Checkpointing
    from fedlpp_cli.training.loop import Watch

KEEPING = "Keeping track"

CheckpointOpt = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        help="Where to keep how far the training is; the same command goes on from there. Yours alone.",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]
CheckpointEveryOpt = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="N[s]",
        help="Steps, or with an s seconds, between two checkpoints.",
        show_default="60s",
        rich_help_panel=KEEPING,
    ),
]
ForceRestartOpt = Annotated[
    bool,
    typer.Option(
        "--force-restart",
        help="Train from the first step, whatever the checkpoint holds, and replace it.",
        rich_help_panel=KEEPING,
    ),
]
LogOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="PLACE",
        help="Write losses and learning rates, step by step, into PATH.jsonl, or for TensorBoard into tensorboard:DIR; "
        "repeat it for more. They are about your rows: keep them.",
        show_default=False,
        rich_help_panel=KEEPING,
    ),
]


def checkpointing(path: str | None, every: str | None, *, restart: bool) -> "Checkpointing | None":
    """What the options ask for; None for no checkpoint.

    Raises:
        UsageError: no number of steps or seconds, or options without a path.
    """
    from fedlpp_cli.steps.checkpoints import Checkpointing

    if path is None:
        if every is not None or restart:
            raise UsageError("--checkpoint-every and --force-restart go with --checkpoint PATH")
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})(s?)", every or "60s", flags=re.ASCII)
    if found is None:
        raise UsageError(f"--checkpoint-every {every}: a number of steps such as 50, or of seconds such as 60s")
    if found[2]:
        return Checkpointing(path=path, seconds=float(found[1]), restart=restart)
    return Checkpointing(path=path, n_steps=int(found[1]), restart=restart)


def watches(logs: Sequence[str] | None, *, force: bool) -> "list[Watch]":
    """What goes along with the training: the screen, and the logs.

    Raises:
        UsageError: a log of a kind that is not written.
    """
    from fedlpp_cli.cli.screen import show_tokens
    from fedlpp_cli.steps.step_logs import step_log

    return [show_tokens, *(step_log(place, force=force) for place in logs or ())]
