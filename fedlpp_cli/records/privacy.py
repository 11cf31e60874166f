"""What is promised about single rows, or about whole clients (differential privacy), and what that rests on."""

from typing import Annotated, Literal

from msgspec import Meta

from fedlpp_cli.records.record import Count, PositiveFloat, PositiveInt, Record

Delta = Annotated[float, Meta(gt=0, lt=1)]


class PrivacySpec(Record, frozen=True, kw_only=True):
    """How a client means to protect its examples (DP-SGD: Abadi et al. 2016, arXiv 1607.00133).

    One of `noise_multiplier` and `epsilon` is set; with `epsilon` the noise is what `n_rounds` rounds of this training
    need for it. `max_grad_norm` is the bound on each example's gradient.
    """

    noise_multiplier: PositiveFloat | None = None
    epsilon: PositiveFloat | None = None
    delta: Delta = 1e-5
    max_grad_norm: PositiveFloat = 1.0
    n_rounds: PositiveInt = 1

    def __post_init__(self) -> None:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("noise_multiplier, epsilon: set one of them")


class ExamplePrivacy(Record, frozen=True, kw_only=True):
    """What an update says of its own noise, and of all that its client's data has been through.

    The numbers hold for adding or removing one example, of data drawn by Poisson sampling, each example in a step with
    probability `sampling_rate`. `n_steps` are those of this update. `epsilon`, at `delta`, counts this update and every
    one before it that was charged to the same data.
    """

    relation: Literal["add-or-remove-one"] = "add-or-remove-one"
    sampling: Literal["poisson"] = "poisson"
    noise_multiplier: PositiveFloat
    max_grad_norm: PositiveFloat
    sampling_rate: Annotated[float, Meta(gt=0, le=1)]
    n_steps: Count
    delta: Delta
    epsilon: Annotated[float, Meta(ge=0)]


class ClientPrivacy(Record, frozen=True, kw_only=True):
    """What protects whole clients against all who see what the owner sends, from this round on.

    The numbers hold for adding or removing one client. `sampling` "everybody": each may be in every round; "poisson":
    each is in a round with probability `sampling_rate`, independently of all others, which is for the owner to see to.
    `noise_multiplier` is that of the round as a whole, `update_noise_multiplier` what is left for the updates where
    norms are counted too. Updates were clipped to `clip_norm`; `next_clip_norm` is for the next round, None where it
    does not move. `noise_norm`: the length of the noise in the mean, the root of its expected square. `epsilon`, at
    `delta`, counts the `n_releases` in the ledger, this one included.
    """

    relation: Literal["add-or-remove-one"] = "add-or-remove-one"
    sampling: Literal["everybody", "poisson"]
    sampling_rate: Annotated[float, Meta(gt=0, le=1)]
    expected_clients: PositiveInt
    noise_multiplier: PositiveFloat
    update_noise_multiplier: PositiveFloat
    clip_norm: PositiveFloat
    next_clip_norm: PositiveFloat | None
    noise_norm: PositiveFloat
    n_releases: Count
    delta: Delta
    epsilon: Annotated[float, Meta(ge=0)]
