"""Which training it is: its checkpoint, and its ledger, have to be of exactly this one."""

from fedlpp_cli.errors import UsageError
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.compute import ComputeChoice, ComputeSpec
from fedlpp_cli.steps.checkpoints import Checkpoints, identity_of
from fedlpp_cli.steps.client_state import ClientState
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.steps.private_training import (
    PrivacySettings,
    PrivateTraining,
    check_private,
    open_private,
    plan_spending,
    setup_of,
)
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.training.private_gradient import KEY, key_of


def prepare(
    opened: OpenPackage,
    client: str,
    rows: Data,
    before: ClientState | None,
    choice: ComputeChoice,
    wish: ComputeSpec,
    kept: Checkpoints | None,
    privacy: PrivacySettings | None,
    on_progress: Progress,
) -> PrivateTraining | None:
    """Say which training it is, and look at what is kept of it; None where it has no privacy for examples.

    Args:
        opened: the package.
        client: who trains.
        rows: its data.
        before: what its last round left.
        choice: how it is computed.
        wish: how it was asked to be.
        kept: the checkpoint, which is told.
        privacy: what is asked for.
        on_progress: told what is going on.

    Raises:
        UsageError: several processes and a checkpoint; what privacy for examples does not go with.
        InputError, ArtifactError, LineageError: a checkpoint, or a ledger, that is not sound, or of something else.
        BudgetError: epsilon would pass the ledger's budget.
    """
    if kept is None and privacy is None:
        return None
    setup, recipe = _setup(choice, wish, before), opened.folder.header.spec.train
    if privacy is None:
        spending = None
    else:
        check_private(opened, choice, wish)
        on_progress("counting what privacy costs", 0, 0)
        spending = plan_spending(privacy.spec, recipe, len(rows.examples))
        setup |= setup_of(privacy.spec, spending)
    training = identity_of(client, recipe, rows.examples, **setup)
    if kept is not None:
        if choice.n_processes > 1:
            raise UsageError(f"--checkpoint goes with one process, these are {choice.n_processes}")
        kept.open(opened, training)
    if privacy is None or spending is None:
        return None
    key = None if kept is None else kept.tensor(f"gradient.{KEY}")
    return open_private(
        privacy, spending, opened, training, rows.examples, before, None if key is None else key_of(key)
    )


def _setup(choice: ComputeChoice, wish: ComputeSpec, before: ClientState | None) -> dict[str, str]:
    """What the numbers of a training depend on, beside package and data."""
    return {
        "device": choice.device,
        "backend": choice.backend,
        "batching": wish.batching,
        "micro_batch": str(choice.micro_batch or "whole"),
        **({"state": before.sha256} if before is not None and before.sha256 else {}),
    }
