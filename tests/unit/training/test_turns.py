"""Steps that move some components and not others: with any optimizer, with noise, and from a checkpoint on."""

import pytest
import torch
from support.tiny import make_tokenizer, prompt_rows

from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.privacy.secret_stream import SecretStream
from fedlpp_cli.records.methods import FactorPlan
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.training.loop import Training, seeded, train
from fedlpp_cli.training.private_gradient import PrivateGradient
from fedlpp_cli.training.resuming import held_by, put_back
from fedlpp_cli.training.smoothing import smoothed

LM = TaskSpec(max_length=16)
NAMES = ("federation", 0, "a")
TURNS = FactorPlan(trains="steps")
RECIPES = {
    "adamw": TrainSpec(steps=4, batch_size=4, learning_rate=1e-2, weight_decay=0.1),
    "momentum": TrainSpec(steps=4, batch_size=4, learning_rate=1e-1, optimizer="sgd", momentum=0.9),
    "proximal": TrainSpec(steps=4, batch_size=4, learning_rate=1e-2, proximal_mu=1.0),
}


@pytest.fixture
def task():
    return CausalLM(LM, make_tokenizer(), {})


@pytest.fixture
def examples(task):
    return [task.encode(Row("here", row)) for row in prompt_rows(10, seed=0)]


@pytest.fixture
def fresh(llama):
    lora = resolve_lora(llama, LM, LoraSpec(rank=2, target_modules=("q_proj",)))
    values = first_values(llama, LM, lora, seed=1)

    def make():
        adapted = AdaptedModel(open_model(llama, LM).model, lora)
        adapted.load({name: value + 0.01 for name, value in values.items()})
        return adapted

    return make


def moved(before, after):
    return {factor_of(name) for name, value in after.items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("plan", "expected"),
    [(TURNS, ["B", "A", "B", "A"]), (FactorPlan(trains="B"), ["B"] * 4), (FactorPlan(trains="A"), ["A"] * 4)],
)
def test_a_step_moves_what_is_planned_and_no_bit_of_anything_else(fresh, task, examples, recipe, plan, expected):
    adapted = fresh()
    seen, last = [], [adapted.values()]

    def look(done):
        seen.append(moved(last[0], adapted.values()))
        last[0] = adapted.values()

    train(adapted, task, examples, RECIPES[recipe], labels=NAMES, factors=plan, on_step=look)
    assert seen == [{factor} for factor in expected]
    assert all(parameter.requires_grad for parameter in adapted.parameters.values())


def test_modules_may_train_different_factors(fresh, task, examples):
    adapted = fresh()
    before = adapted.values()
    first, second = sorted({name.rpartition(".")[0] for name in before})
    plan = FactorPlan(trains="modules", modules={first: "A", second: "B"})
    train(adapted, task, examples, RECIPES["adamw"], labels=NAMES, factors=plan)
    changed = {name for name, value in adapted.values().items() if not torch.equal(before[name], value)}
    assert changed == {f"{first}.lora_A", f"{second}.lora_B"}


def test_a_training_that_stopped_between_two_turns_goes_on_with_the_next(fresh, task, examples):
    def training():
        return Training(fresh(), task, examples, RECIPES["adamw"], labels=NAMES, factors=TURNS)

    def stop(done):
        if done.step == 1:
            raise InterruptedError

    with seeded(NAMES):
        whole = training()
        whole.run(lambda done: None)
    with seeded(NAMES):
        stopped = training()
        with pytest.raises(InterruptedError):
            stopped.run(stop)
        held = held_by(stopped)
    with seeded(NAMES):
        resumed = training()
        put_back(resumed, held, stopped.done, source="here")
        resumed.run(lambda done: None)
    expected = whole.adapted.values()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.adapted.values().items())


def private(adapted, task, *, bound, sigma):
    stream = SecretStream(bytes(32), "test")
    return PrivateGradient(
        adapted, task, RECIPES["adamw"], stream=stream, noise_multiplier=sigma, max_grad_norm=bound, expected_batch=1.0
    )


def test_noise_and_bound_are_of_what_the_step_moves(fresh, task, examples):
    adapted = fresh()
    active = {name for name in adapted.parameters if factor_of(name) == "B"}
    adapted.let_train(active)
    made = private(adapted, task, bound=1e-3, sigma=1e-12)
    made.compute([examples[:1]])
    made.close()
    gradients = {name: parameter.grad for name, parameter in adapted.parameters.items()}
    assert {name for name, gradient in gradients.items() if gradient is not None} == active
    norm = torch.cat([gradients[name].flatten() for name in active]).double().norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-4)
    noisy = private(adapted, task, bound=1.0, sigma=2.0)
    found = noisy.compute([])
    noisy.close()
    n_values = sum(adapted.parameters[name].numel() for name in active)
    assert found.norm == pytest.approx(2.0 * n_values**0.5, rel=0.2)
    assert all(adapted.parameters[name].grad is None for name in {*adapted.parameters} - active)


def test_what_is_smoothed_is_what_has_its_noise(fresh, task, examples):
    """Plain descent, so that the step is the gradient: with the filter it is the filtered one, noise and all."""
    steps = {}
    for is_smooth in (False, True):
        adapted = fresh()
        before = adapted.values()
        gradient = private(adapted, task, bound=1.0, sigma=1.0)
        recipe = TrainSpec(steps=1, batch_size=1, optimizer="sgd", weight_decay=0.0, learning_rate=0.5)
        plan = FactorPlan(trains="steps", smooth_gradients=is_smooth)
        train(adapted, task, examples[:1], recipe, labels=NAMES, gradient=gradient, factors=plan)
        gradient.close()
        steps[is_smooth] = {name: (value - before[name]) / -0.5 for name, value in adapted.values().items()}
    for name, value in steps[False].items():
        expected = smoothed(value, 0) if factor_of(name) == "B" else torch.zeros_like(value)
        torch.testing.assert_close(steps[True][name], expected, atol=1e-5, rtol=1e-5)


def test_scores_are_of_the_last_gradient_with_its_noise_taken_off(fresh, task, examples):
    adapted = fresh()
    modules = {name.rpartition(".")[0] for name in adapted.parameters}
    plan = FactorPlan(trains="modules", modules=dict.fromkeys(modules, "A"), scores=True)
    gradient = private(adapted, task, bound=1.0, sigma=3.0)
    run = train(adapted, task, examples, RECIPES["adamw"], labels=NAMES, gradient=gradient, factors=plan)
    gradient.close()
    assert run.scores.keys() == modules
    for module, score in run.scores.items():
        factor = adapted.parameters[f"{module}.lora_A"]
        energy = factor.grad.double().square().sum().item()
        assert score == pytest.approx(max(0.0, energy - factor.numel() * 9.0), rel=1e-5)
    plain = train(fresh(), task, examples, RECIPES["adamw"], labels=NAMES, factors=plan)
    assert all(score > 0 for score in plain.scores.values())
    assert train(fresh(), task, examples, RECIPES["adamw"], labels=NAMES, factors=TURNS).scores == {}
