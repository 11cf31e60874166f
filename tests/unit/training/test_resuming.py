"""A training that stops between two steps and goes on in another process ends as if it had never stopped."""

import contextlib

import pytest
import torch
from msgspec.structs import replace
from support.tiny import make_tokenizer, prompt_rows

from fedlpp_cli.errors import ArtifactError, GateError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.training.held import Held, Resumable
from fedlpp_cli.training.loop import TrainedRun, Training, seeded
from fedlpp_cli.training.resuming import held_by, put_back
from fedlpp_cli.training.sampling import ShuffledPasses

LM = TaskSpec(max_length=32)
NAMES = ("federation", 0, "a")
SPEC = TrainSpec(steps=6, batch_size=4, learning_rate=1e-2)
COMPONENT = "model.layers.0.mlp.down_proj.lora_A"
RECIPES = {
    "adamw": SPEC,
    "a schedule": replace(SPEC, schedule="cosine", warmup=0.5),
    "plain descent": replace(SPEC, optimizer="sgd"),
    "momentum": replace(SPEC, optimizer="sgd", momentum=0.9),
    "accumulation": replace(SPEC, gradient_accumulation=3),
    "held near the proxy": replace(SPEC, proximal_mu=3.0),
}


class StoppedError(Exception):
    """What stops a training in these tests."""


@pytest.fixture
def task():
    return CausalLM(LM, make_tokenizer(), {})


@pytest.fixture
def make(llama, task):
    examples = [task.encode(Row("here", row)) for row in prompt_rows(10, seed=0)]
    lora = resolve_lora(llama, LM, LoraSpec(rank=4, dropout=0.3))
    values = first_values(llama, LM, lora, seed=1)

    def training(spec=SPEC, **parts):
        adapted = AdaptedModel(open_model(llama, LM).model, lora)
        adapted.load(values)
        return Training(adapted, task, examples, spec, labels=NAMES, **parts)

    return training


def run_to(training, last):
    """Make the steps to `last`; what is held then, in memory of its own, and how far it is."""

    def stop(done):
        if done.step == last:
            raise StoppedError

    with seeded(NAMES):
        with contextlib.suppress(StoppedError):
            training.run(stop)
        held = held_by(training)
    return Held({name: tensor.clone() for name, tensor in held.tensors.items()}, dict(held.values)), training.done


def resumed(training, held, done):
    with seeded(NAMES):
        torch.rand(17)  # whatever else was drawn meanwhile
        put_back(training, held, done, source="here")
        return training.run(lambda _: None)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("last", [1, 4])
def test_it_ends_as_if_it_had_never_stopped(make, recipe, last):
    whole = make(RECIPES[recipe])
    with seeded(NAMES):
        expected = whole.run(lambda _: None)
    held, done = run_to(make(RECIPES[recipe]), last)
    assert done.n_steps == last
    again = make(RECIPES[recipe])
    assert resumed(again, held, done) == expected
    for name, value in whole.adapted.values().items():
        assert torch.equal(again.adapted.values()[name], value), name


def test_it_ends_elsewhere_without_the_generators_or_the_optimizer(make):
    """So both are needed, and both are in what is held."""
    whole = make()
    with seeded(NAMES):
        whole.run(lambda _: None)
    held, done = run_to(make(), 3)
    forgotten = {
        "generator": lambda tensors: {**tensors, "generator.cpu": torch.Generator().manual_seed(1).get_state()},
        "optimizer": lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("optimizer.")},
    }
    for change in forgotten.values():
        again = make()
        resumed(again, Held(change(held.tensors), held.values), done)
        assert any(not torch.equal(again.adapted.values()[n], v) for n, v in whole.adapted.values().items())


def test_a_finished_training_makes_no_step_more(make):
    whole = make()
    held, done = run_to(whole, 6)
    again = make()
    assert resumed(again, held, done) == done
    assert all(torch.equal(again.adapted.values()[name], value) for name, value in whole.adapted.values().items())


class NoisySampler(ShuffledPasses):
    """Draws from a generator of its own, and counts what it drew."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.generator, self.n_drawn = torch.Generator().manual_seed(5), 0

    def steps_from(self, first):
        for batches in super().steps_from(first):
            self.n_drawn += 1
            yield [[int(torch.randint(10, (), generator=self.generator)), *batch] for batch in batches]

    def held(self):
        return Held({"generator": self.generator.get_state()}, {"n_drawn": self.n_drawn})

    def put_back(self, held):
        self.generator.set_state(held.tensors["generator"])
        self.n_drawn = held.values["n_drawn"]


def test_a_part_that_holds_something_is_asked_for_it_and_gets_it_back(make):
    def noisy():
        return make(sampler=NoisySampler(10, SPEC, NAMES))

    whole = noisy()
    assert isinstance(whole.sampler, Resumable)
    assert not isinstance(make().sampler, Resumable)
    with seeded(NAMES):
        expected = whole.run(lambda _: None)
    held, done = run_to(noisy(), 4)
    assert held.values["sampler.n_drawn"] == 4
    again = noisy()
    assert resumed(again, held, done) == expected
    assert again.sampler.n_drawn == 6
    assert all(torch.equal(again.adapted.values()[name], value) for name, value in whole.adapted.values().items())
    with pytest.raises(ArtifactError, match=r"here: 'sampler.generator' is no part of this training"):
        resumed(make(), held, done)


def without(name):
    return lambda tensors: {n: tensor for n, tensor in tensors.items() if n != name}


def with_one(name, value):
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(f"adapter.{COMPONENT}"), "'model.layers.0.mlp.down_proj.lora_A' is missing"),
        (with_one("adapter.x", torch.ones(1)), "'x' is .*, this training has none"),
        (with_one(f"adapter.{COMPONENT}", torch.ones(4, 3)), r"\(4, 3\)\), this training has .*\(4, 32\)"),
        (with_one(f"adapter.{COMPONENT}", torch.full((4, 32), torch.nan)), "lora_A: not finite"),
        (without(f"optimizer.{COMPONENT}.exp_avg"), "exp_avg' is missing"),
        (with_one(f"optimizer.{COMPONENT}.momentum_buffer", torch.ones(4, 32)), "momentum_buffer' is"),
        (with_one(f"optimizer.{COMPONENT}.step", torch.ones(2)), "step' is"),
        (without("generator.cpu"), "'cpu' is missing"),
        (with_one("generator.cpu", torch.zeros(3, dtype=torch.uint8)), "'cpu' is"),
        (with_one("generator.cuda", torch.zeros(16, dtype=torch.uint8)), "'cuda' is"),
        (with_one("gate.x", torch.ones(1)), "a checkpoint whose gate holds"),
        (with_one("x.y", torch.ones(1)), "'x.y' is no part of this training"),
    ],
)
def test_tensors_that_are_not_those_of_the_training_are_refused(make, change, message):
    held, done = run_to(make(), 2)
    with pytest.raises(ArtifactError, match=message), seeded(NAMES):
        put_back(make(), Held(change(held.tensors), held.values), done, source="here")


@pytest.mark.parametrize("values", [{}, {"gate.loss_first": 1, "gate.n_high": 0}, {"gate.loss_first": 1.0}])
def test_values_that_are_not_those_of_the_gate_are_refused(make, values):
    held, done = run_to(make(), 2)
    with pytest.raises(ArtifactError, match="loss_first and n_high are needed"), seeded(NAMES):
        put_back(make(), Held(held.tensors, values), done, source="here")


def test_an_adapter_that_is_not_finite_is_not_kept(make):
    training = make()
    run_to(training, 2)
    training.adapted.parameters[COMPONENT].data[0, 0] = torch.inf
    with pytest.raises(GateError, match=f"{COMPONENT}: not finite after step 2"):
        held_by(training)


def test_a_new_training_holds_no_optimizer_yet(make):
    held = held_by(make())
    assert not any(name.startswith("optimizer.") for name in held.tensors)
    assert make().done == TrainedRun(0, 0, 0.0, 0.0)
