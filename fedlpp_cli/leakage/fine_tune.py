"""An attacker who trains on from what it has: on rows of its own, for some passes over them."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.tasks.task import Example, Task
from fedlpp_cli.training.gradients import Gradient
from fedlpp_cli.training.loop import StepDone, train
from fedlpp_cli.training.schedule import n_steps


def attackers_recipe(recipe: TrainSpec, n_epochs: int) -> TrainSpec:
    """The federation's optimizer, learning rate and batch size, for whole passes over the data.

    Nothing that serves the federation is left: no pull to the proxy, no learning rate that ends with the round.
    """
    return replace(
        recipe,
        steps=None,
        epochs=float(n_epochs),
        schedule="constant",
        warmup=0.0,
        proximal_mu=0.0,
        control_variates=False,
        max_update_norm=None,
    )


def fine_tune(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    recipe: TrainSpec,
    *,
    n_epochs: int,
    labels: tuple[object, ...],
    gradient: Gradient | None = None,
    on_step: Callable[[StepDone], None] = lambda done: None,
) -> list[dict[str, Tensor]]:
    """The adapter after each of `n_epochs` passes over the examples; float32, on the CPU.

    Args:
        adapted: the model, with its adapter where the attacker starts; trained in place.
        task: gives batches and losses.
        examples: the attacker's.
        recipe: of the federation; what is left of it says `attackers_recipe`.
        n_epochs: passes.
        labels: names of the random streams.
        gradient: None for that of the loss on the examples.
        on_step: told of each step.

    Raises:
        GateError: a training that goes wrong, as `Training`.
    """
    spec = attackers_recipe(recipe, n_epochs)
    ends = [n_steps(attackers_recipe(recipe, done), len(examples)) for done in range(1, n_epochs + 1)]
    found: list[dict[str, Tensor]] = []

    def keep(done: StepDone) -> None:
        found.extend(adapted.values() for end in ends if end == done.step)
        on_step(done)

    train(adapted, task, examples, spec, labels=labels, gradient=gradient, on_step=keep)
    return found
