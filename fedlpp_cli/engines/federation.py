"""What a whole federation is told: all that `init`, `quantize`, `pack` and `aggregate` need, and who trains."""

from dataclasses import dataclass, field

from fedlpp_cli.aggregation.masks import check_mask_options
from fedlpp_cli.aggregation.rules import check_options
from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import METHOD, MethodSpec
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

    `proxy_rank`: the rank that clients get; None for the master's. `reference`: the client whose data is the owner's,
    for rule "fltrust". It takes part in no round; the update that it trains in each is the owner's own.
    """

    base: RefLike | None = None
    private_base: bool = False
    method: str = METHOD
    method_options: MethodSpec = field(default_factory=MethodSpec)
    seed: int = 0
    task: TaskSpec = field(default_factory=TaskSpec)
    lora: LoraSpec = field(default_factory=LoraSpec)
    quantize: QuantSpec = field(default_factory=QuantSpec)
    proxy_rank: int | None = None
    mask: MaskSpec = field(default_factory=MaskSpec)
    base_quantize: BaseQuantSpec = field(default_factory=BaseQuantSpec)
    train: TrainSpec = field(default_factory=lambda: TrainSpec(steps=DEFAULT_STEPS))
    update: QuantSpec = FULL_PRECISION
    aggregate: AggregateSpec = field(default_factory=AggregateSpec)
    reference: str | None = None

    def check_method(self) -> None:
        """Refuse before any work what the method does not go with.

        Raises:
            UsageError: no such method, or the reason.
        """
        asked = Asked(
            lora=self.lora,
            quantize=self.quantize,
            mask=self.mask,
            train=self.train,
            update=self.update,
            aggregate=self.aggregate,
            options=self.method_options,
        )
        method_named(self.method).check(asked)

    def check_rule(self) -> None:
        """Refuse before any work options of a rule that do not go together.

        Raises:
            UsageError: saying which.
        """
        if (self.reference is not None) != (self.aggregate.rule == "fltrust"):
            raise UsageError("rule fltrust and --reference go together")
        check_options(self.aggregate, has_reference=self.reference is not None)
        check_mask_options(self.aggregate, masked=self.mask.hides)
        if self.mask.hides and self.train.control_variates:
            raise UsageError("[mask]: masks do not go with [train] control_variates")
        if self.aggregate.client_noise_multiplier is not None:
            raise UsageError(
                "[aggregate] client_noise_multiplier: its noise is secret, and a simulation can be repeated",
                hint="run the rounds by the commands, or simulate without it",
            )

    def check_states(self, *, keep_state: bool) -> None:
        """Refuse states that are missing, or mean nothing, and a number of clients that nothing asks for.

        Raises:
            UsageError: saying so.
        """
        population = self.aggregate.n_population
        if self.train.control_variates and not keep_state:
            raise UsageError("--keep-state is missing: clients have to keep their control variates")
        if population is not None and not self.train.control_variates:
            raise UsageError(f"[aggregate] n_population {population}: [train] asks for no control variates")
        if keep_state and self.aggregate.combine in {"svd", "stack"}:
            raise UsageError(
                f"--keep-state: combine {self.aggregate.combine!r} makes new factors each round, which no state knows",
                hint='without --keep-state, or [aggregate] combine = "residual"',
            )

    def check_population(self, n_clients: int, n_chosen: int) -> None:
        """Refuse to count those of a round for all clients, or fewer than there are.

        Raises:
            UsageError: control variates, and not the right `n_population` for them.
        """
        population = self.aggregate.n_population
        if population is not None and population < n_clients:
            raise UsageError(f"[aggregate] n_population {population}: there are {n_clients} clients")
        if self.train.control_variates and n_chosen < n_clients and population is None:
            raise UsageError(
                f"--clients-per-round {n_chosen}: control variates need the number of all clients",
                hint=f"n_population = {n_clients} under [aggregate] in the --federation file",
            )

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
