"""A client's training in memory only, to look at what it would tell: nothing is written, sent, or charged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from fedlpp_cli.privacy.accountant import Spending
from fedlpp_cli.privacy.secret_stream import SecretStream, new_key
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.steps.local_training import LocalRound
from fedlpp_cli.steps.private_training import plan_spending
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.control_variates import corrections
from fedlpp_cli.training.error_feedback import round_update
from fedlpp_cli.training.gradients import Gradient, MeanGradient
from fedlpp_cli.training.limits import check_fits
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.poisson import PoissonSampling
from fedlpp_cli.training.private_gradient import PrivateGradient
from fedlpp_cli.training.sampling import Sampler

# Names what is drawn from the secret stream; such noise is in no update.
_CONTEXT = "rehearsal"


def rehearse(
    opened: LocalRound,
    client: str,
    examples: Sequence[Example],
    noise: tuple[PrivacySpec, Spending] | None,
    on_progress: Progress,
) -> dict[str, Tensor]:
    """What the owner would read out of proxy plus update, float32 by component.

    Args:
        opened: package and model.
        client: who trains: names the order of examples and dropout.
        examples: what to train on.
        noise: privacy for the examples, and what it costs as `plan_spending` has it; None for none.
        on_progress: told of each step.

    Raises:
        ModelError, GateError: as a training.
    """
    manifest = opened.package.folder.header
    check_fits(opened.adapted.model, opened.task.spec.max_length, examples)
    opened.adapted.load(opened.start)
    with _parts(opened, examples, noise) as (gradient, sampler):
        train(
            opened.adapted,
            opened.task,
            examples,
            manifest.spec.train,
            labels=(manifest.federation, manifest.round, client),
            gradient=gradient,
            sampler=sampler,
            on_step=lambda done: on_progress(f"trying a training, loss {done.loss:.4f}", done.step, done.total),
        )
    change = {name: value - opened.start[name] for name, value in opened.adapted.values().items()}
    sent = round_update(change, manifest.spec.update).values
    return {name: opened.start[name] + value for name, value in sent.items()}


def with_spending(opened: LocalRound, spec: PrivacySpec | None, n_examples: int) -> tuple[PrivacySpec, Spending] | None:
    """The noise that `spec` asks for, and what one training with it costs. Raises as `plan_spending`."""
    return None if spec is None else (spec, plan_spending(spec, opened.package.folder.header.spec.train, n_examples))


@contextmanager
def _parts(
    opened: LocalRound, examples: Sequence[Example], noise: tuple[PrivacySpec, Spending] | None
) -> Iterator[tuple[Gradient, Sampler | None]]:
    recipe = opened.package.folder.header.spec.train
    if noise is None:
        yield (
            MeanGradient(
                opened.adapted,
                opened.task,
                recipe,
                make_batches=opened.make_batches,
                corrections=corrections(None, opened.control),
            ),
            None,
        )
        return
    (spec, spending), stream = noise, SecretStream(new_key(), _CONTEXT)
    gradient = PrivateGradient(
        opened.adapted,
        opened.task,
        recipe,
        stream=stream,
        noise_multiplier=spending.noise_multiplier,
        max_grad_norm=spec.max_grad_norm,
        expected_batch=spending.sampling_rate * len(examples),
    )
    try:
        yield gradient, PoissonSampling(len(examples), recipe, stream)
    finally:
        gradient.close()
