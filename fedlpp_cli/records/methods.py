"""What a method of federated fine-tuning asks of a round: which factors move, and what is done to their gradients."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from fedlpp_cli.records.record import Count, Digest, ModuleName, Record

Factor = Literal["A", "B"]
# Of a squared norm; what is beyond would overflow in a sum.
Score = Annotated[float, Meta(ge=0, le=1e30)]
MethodName = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}$(?!\n)")]

METHOD: Final = "fedlpp"


class FactorPlan(Record, frozen=True, kw_only=True):
    """Which factors a round trains, of every module: "both", "A", "B", or as `modules` says of each.

    With "steps" they take turns: B at the first step, A at the second, and so on; in the end both have moved. A factor
    that is not trained stays what it is, to the bit, at every client, and is in no update. What is trained whole, such
    as a head, is trained at every step of every plan. With `smooth_gradients` the gradient of a factor is smoothed
    along its features (`training/smoothing.py`). With `scores` a client says how large the last gradient of each module
    was (`training/gradient_scores.py`).
    """

    trains: Literal["both", "A", "B", "steps", "modules"] = "both"
    modules: dict[ModuleName, Factor] = {}
    smooth_gradients: bool = False
    scores: bool = False

    def __post_init__(self) -> None:
        if bool(self.modules) != (self.trains == "modules"):
            raise ValueError('modules: goes with trains "modules", and with nothing else')
        if self.scores and self.trains != "modules":
            raise ValueError('scores: goes with trains "modules"')

    @property
    def is_of_one_factor(self) -> bool:
        """Whether of each module one factor stays: then the mean of products is the product of means."""
        return self.trains in ("A", "B", "modules")


BOTH: Final = FactorPlan()


class DrawnFactors(Record, frozen=True, kw_only=True):
    """Factors A that clients draw from `seed`, with `rank` rows (`adapters/drawn.py`). `sha256`: of all the values."""

    seed: Count
    rank: Annotated[int, Meta(ge=1, le=1024)]
    sha256: Digest


class MethodSpec(Record, frozen=True, kw_only=True):
    """What can be set about a method, at the start of a federation; None for the paper's choice.

    `warmup_rounds`: of AS-LoRA, in which all layers train B and A by turns; at least two, so that both are known.
    """

    warmup_rounds: Annotated[int, Meta(ge=2, le=2**20)] | None = None


class FactorScores(Record, frozen=True, kw_only=True):
    """How large the gradients of a layer's factors were in the rounds that trained them; None before the first."""

    a: Score | None = None
    b: Score | None = None
