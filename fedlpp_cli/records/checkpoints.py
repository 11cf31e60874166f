"""What a checkpoint says of the training that it is of, and of how far that is."""

from typing import Annotated

from msgspec import Meta

from fedlpp_cli.records.methods import Score
from fedlpp_cli.records.record import Count, Digest, ModuleName, PartyName, PositiveInt, Record
from fedlpp_cli.records.specs import TrainSpec

PartName = Annotated[str, Meta(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_-]+)*$(?!\n)", max_length=256)]
# What a part of a training keeps beside tensors.
Scalar = bool | int | float | str | None


class TrainingIdentity(Record, frozen=True, kw_only=True):
    """What decides how a training ends, beside the package: a checkpoint goes on with exactly this.

    `data`: sha256 over the encoded examples. `setup`: by name, what else the numbers depend on, such as the version of
    torch.
    """

    client: PartyName
    data: Digest
    train: TrainSpec
    setup: dict[PartName, Annotated[str, Meta(max_length=256)]]


class CheckpointSpec(Record, frozen=True, kw_only=True):
    """A training after `n_steps` of its steps.

    Losses and tokens are counted as in the update's metrics. `values`: what its parts hold beside tensors. `scores`: of
    the last step, where the package asks for them.
    """

    training: TrainingIdentity
    n_steps: PositiveInt
    n_tokens: Count
    loss_first: float
    loss_last: float
    values: dict[PartName, Scalar]
    scores: dict[ModuleName, Score] = {}
