"""What a whole federation is told: all that `init`, `quantize`, `pack` and `aggregate` need, and who trains."""

from dataclasses import dataclass, field

from fedlpp_cli.aggregation.rules import check_options
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.specs import (
    DEFAULT_STEPS,
    FULL_PRECISION,
    AggregateSpec,
    BaseQuantSpec,
    LoraSpec,
    QuantSpec,
    TaskSpec,
    TrainSpec,
)
from fedlpp_cli.steps.inputs import RefLike


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSpec:
    """The settings of a federation file. `base` None: where a first master is there, and names a public address.

    `reference`: the client whose data is the owner's, for rule "fltrust". It takes part in no round; the update that it
    trains in each is the owner's own.
    """

    base: RefLike | None = None
    private_base: bool = False
    seed: int = 0
    task: TaskSpec = field(default_factory=TaskSpec)
    lora: LoraSpec = field(default_factory=LoraSpec)
    quantize: QuantSpec = field(default_factory=QuantSpec)
    base_quantize: BaseQuantSpec = field(default_factory=BaseQuantSpec)
    train: TrainSpec = field(default_factory=lambda: TrainSpec(steps=DEFAULT_STEPS))
    update: QuantSpec = FULL_PRECISION
    aggregate: AggregateSpec = field(default_factory=AggregateSpec)
    reference: str | None = None

    def check_rule(self) -> None:
        """Refuse before any work options of a rule that do not go together.

        Raises:
            UsageError: saying which.
        """
        if (self.reference is not None) != (self.aggregate.rule == "fltrust"):
            raise UsageError("rule fltrust and --reference go together")
        check_options(self.aggregate, has_reference=self.reference is not None)

    def check_rounds(self, n_rounds: int) -> None:
        """Refuse before any work a number of rounds that the last of them would refuse.

        Raises:
            UsageError: none, or more than update rule 4 was planned for.
        """
        if n_rounds < 1:
            raise UsageError(f"--rounds {n_rounds}: at least one is needed")
        planned = self.aggregate.n_rounds
        if self.aggregate.update_rule == 4 and planned is not None and n_rounds > planned:
            raise UsageError(f"--rounds {n_rounds}: [aggregate] n_rounds of update rule 4 is {planned}")
