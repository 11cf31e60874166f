"""A training with privacy for its examples: planned, held against its ledger, made, and charged."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from fedlpp_cli import canonical
from fedlpp_cli.errors import InputError, LineageError, OutputError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.privacy.accountant import Spending, noise_multiplier_for
from fedlpp_cli.privacy.budget_ledger import Budget, Charge, foresee_charge, read_ledger, record_charge
from fedlpp_cli.privacy.secret_stream import SecretStream, new_key
from fedlpp_cli.records.checkpoints import TrainingIdentity
from fedlpp_cli.records.compute import ComputeChoice, ComputeSpec
from fedlpp_cli.records.privacy import ExamplePrivacy, PrivacySpec
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.specs import Batching, TrainSpec
from fedlpp_cli.steps.client_state import ClientState
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.tasks.task import Example, Task, digest_of_set
from fedlpp_cli.training.batching import MakeBatches
from fedlpp_cli.training.poisson import PoissonSampling, sampling_rate
from fedlpp_cli.training.private_gradient import PrivateGradient
from fedlpp_cli.training.schedule import n_steps
from fedlpp_cli.training.shares import Share

# Stands in a charge until its update is written.
_NO_UPDATE: Final = "0" * 64
_SEED_NUMBERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """How examples are protected, and the ledger of the data, which has to be there unless `new_ledger`.

    `max_epsilon`: how far epsilon may go, kept in the ledger; where nobody says so, a new ledger keeps `spec.epsilon`.
    `data_changed`: the ledger's last charge may be for other data.
    """

    spec: PrivacySpec
    ledger: Path
    max_epsilon: float | None = None
    new_ledger: bool = False
    data_changed: bool = False


class PrivateTraining:
    """One client's training of one round, with a key of its own. `privacy`: what its update may say of itself."""

    def __init__(
        self, settings: PrivacySettings, budget: Budget, charge: Charge, stream: SecretStream, expected_batch: float
    ) -> None:
        """Look into the ledger. Raises as `record_charge`."""
        self._settings, self._budget, self._charge, self._stream = settings, budget, charge, stream
        self._expected_batch = expected_batch
        self.privacy = self.foresee()

    @property
    def labels(self) -> tuple[object, ...]:
        """Name dropout's stream so that nobody else can repeat it: the place of an example would tell of those before.

        What one example changes is bounded only if all others are dropped out as they would be without it, or by
        chance that nobody knows.
        """
        return ("private", *self._stream.uniforms(_SEED_NUMBERS, "dropout").tolist())

    @contextmanager
    def parts(
        self,
        adapted: AdaptedModel,
        task: Task,
        recipe: TrainSpec,
        n_examples: int,
        *,
        share: Share,
        make_batches: MakeBatches,
    ) -> Iterator[tuple[PrivateGradient, PoissonSampling]]:
        """Gradient and sampler of the training.

        Raises:
            ModelError: something is trained that is no linear layer.
        """
        gradient = PrivateGradient(
            adapted,
            task,
            recipe,
            stream=self._stream,
            noise_multiplier=self._charge.noise_multiplier,
            max_grad_norm=self._settings.spec.max_grad_norm,
            expected_batch=self._expected_batch,
            make_batches=make_batches,
        )
        try:
            yield gradient, PoissonSampling(n_examples, recipe, self._stream, micro_batch=share.micro_batch)
        finally:
            gradient.close()

    def foresee(self) -> ExamplePrivacy:
        """What an update that is charged now says of itself. Raises as `record_charge`, and writes nothing."""
        spec, charge = self._settings.spec, self._charge
        self.privacy = ExamplePrivacy(
            noise_multiplier=charge.noise_multiplier,
            max_grad_norm=spec.max_grad_norm,
            sampling_rate=charge.sampling_rate,
            n_steps=charge.n_steps,
            delta=spec.delta,
            epsilon=foresee_charge(
                self._settings.ledger, self._budget, charge, data_changed=self._settings.data_changed
            ),
        )
        return self.privacy

    def charge(self, update: str) -> None:
        """Charge the update of that sha256, which says what was foreseen last; on disk when this returns.

        Raises:
            BudgetError, LineageError, UsageError, ArtifactError, OutputError: as `record_charge`.
        """
        record_charge(
            self._settings.ledger,
            self._budget,
            replace(self._charge, update=update),
            data_changed=self._settings.data_changed,
            told=self.privacy.epsilon,
        )


def plan_spending(spec: PrivacySpec, recipe: TrainSpec, n_examples: int) -> Spending:
    """What one round spends. With `spec.epsilon` all its rounds, like this one, cost no more than that together.

    Raises:
        UsageError: dp-accounting is not installed.
    """
    rate, steps, sigma = sampling_rate(n_examples, recipe), n_steps(recipe, n_examples), spec.noise_multiplier
    if sigma is None:
        assert spec.epsilon is not None  # noqa: S101  # PrivacySpec sees to it
        sigma = noise_multiplier_for(spec.epsilon, spec.delta, sampling_rate=rate, n_steps=steps * spec.n_rounds)
    return Spending(sigma, rate, steps)


def setup_of(spec: PrivacySpec, spending: Spending) -> dict[str, str]:
    """What a training's numbers depend on, for its checkpoint."""
    return {"noise_multiplier": str(spending.noise_multiplier), "max_example_norm": str(spec.max_grad_norm)}


def check_private(package: OpenPackage, choice: ComputeChoice, wish: ComputeSpec) -> None:
    """Refuse what cannot be had with privacy for examples.

    Raises:
        UsageError: naming it.
    """
    if package.folder.header.spec.train.control_variates:
        raise UsageError(f"{package.name} asks for control variates, which have no privacy for examples")
    if choice.n_processes > 1:
        raise UsageError(f"privacy for examples goes with one process, these are {choice.n_processes}")
    if wish.batching == "packed":
        raise UsageError(
            "--batching packed: with privacy for examples each has a row of its own",
            hint="--batching bucketed, or auto",
        )


def private_batching(wish: ComputeSpec) -> Batching:
    """How examples go through the model: no two of them in one row, where their gradients could not be told apart."""
    return "bucketed" if wish.batching == "auto" else wish.batching


def open_private(
    settings: PrivacySettings,
    spending: Spending,
    package: OpenPackage,
    training: TrainingIdentity,
    examples: Sequence[Example],
    state: ClientState | None,
    key: bytes | None,
) -> PrivateTraining:
    """A training that its ledger allows; nothing is written yet.

    Args:
        settings: what is asked for.
        spending: what it costs.
        package: of the round.
        training: all that its numbers depend on beside the package.
        examples: the client's data.
        state: what goes into the update; it has to be one of updates that were charged.
        key: of the training that is gone on with; None for a new one.

    Raises:
        BudgetError: it would pass the budget.
        LineageError: a ledger of other data, or a state of an update that was not charged to it.
        UsageError: another delta, or a larger budget, than the ledger has.
        InputError, ArtifactError: no ledger, or a damaged one.
    """
    manifest, path = package.folder.header, settings.ledger
    ledger = read_ledger(path)
    if ledger is None and not settings.new_ledger:
        raise InputError(
            f"{path}: no ledger is there", hint="--new-ledger, if this data was never trained on with noise"
        )
    if state is not None and state.update not in {one.update for one in (ledger.charges if ledger else ())}:
        raise LineageError(f"--state is of an update that was not charged to {path}", hint="begin without --state")
    context = canonical.encode({"package": package.folder.sha256, "training": to_plain(training)})
    stream = SecretStream(key or new_key(), context.decode())
    charge = Charge(
        federation=manifest.federation or "",
        round=manifest.round,
        package=package.folder.sha256,
        client=training.client,
        data=digest_of_set(examples),
        noise_multiplier=spending.noise_multiplier,
        sampling_rate=spending.sampling_rate,
        n_steps=spending.n_steps,
        run=stream.digest,
        update=_NO_UPDATE,
    )
    limit = settings.max_epsilon if ledger or settings.max_epsilon else settings.spec.epsilon
    budget = Budget(delta=settings.spec.delta, max_epsilon=limit)
    return PrivateTraining(settings, budget, charge, stream, spending.sampling_rate * len(examples))


def check_place(ledger: Path, others: dict[str, object]) -> None:
    """Refuse a ledger in the place of something else that the command reads or writes, or that cannot be written.

    Raises:
        UsageError: naming both places.
        OutputError: it is better known before the training than after it.
    """
    exists = os.path.lexists(ledger)
    place = ledger if exists else next(folder for folder in ledger.absolute().parents if os.path.lexists(folder))
    if not os.access(place, os.W_OK) or not (exists or place.is_dir()):
        raise OutputError(f"{ledger}: cannot be written", hint="--ledger FILE")
    for option, other in others.items():
        if isinstance(other, str | Path) and os.path.realpath(other) == os.path.realpath(ledger):
            raise UsageError(f"{option} and --ledger are both {ledger}")
