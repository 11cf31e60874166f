"""Attackers who train: on rows, and on answers."""

import pytest
import torch
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.leakage.agreement import Agreement, Answers
from fedlpp_cli.leakage.distill import AnswersGradient
from fedlpp_cli.leakage.fine_tune import attackers_recipe, fine_tune
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.data import load_data

RECIPE = TrainSpec(steps=3, batch_size=4, learning_rate=1e-2)
NAMES = ("test", "attacker")


@pytest.fixture(scope="module")
def world(llama, tmp_path_factory):
    """A model with an adapter, its first values, a task and ten rows."""
    task = CausalLM(TaskSpec(max_length=32), open_tokenizer(llama), {})
    lora = resolve_lora(llama, task.spec, LoraSpec(rank=4))
    path = write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", prompt_rows(10, seed=3))
    adapted = AdaptedModel(open_model(llama, task.spec).model, lora)
    return adapted, first_values(llama, task.spec, lora, seed=1), task, load_data(path, task, columns={}).examples


def asked(adapted, task, examples):
    answers = Answers(examples)
    measure(adapted, task, examples, 4, lambda *_: None, answers.look)
    return answers


def test_the_adapter_is_kept_after_each_pass(world):
    adapted, start, task, examples = world
    adapted.load(start)
    steps = []
    passes = fine_tune(adapted, task, examples, RECIPE, n_epochs=3, labels=NAMES, on_step=steps.append)
    assert [done.step for done in steps] == list(range(1, 9))  # 10 rows in batches of 4: 2.5 steps a pass
    assert len(passes) == 3
    assert all(torch.equal(value, adapted.values()[name]) for name, value in passes[-1].items())
    adapted.load(start)
    once = fine_tune(adapted, task, examples, RECIPE, n_epochs=1, labels=NAMES)[0]
    assert all(torch.equal(value, passes[0][name]) for name, value in once.items())


def test_nothing_that_serves_the_federation_is_left_in_the_recipe():
    recipe = TrainSpec(
        steps=9, batch_size=4, schedule="cosine", warmup=0.5, proximal_mu=1.0, max_update_norm=0.1, momentum=0.9,
        optimizer="sgd",
    )  # fmt: skip
    spec = attackers_recipe(recipe, 2)
    assert (spec.steps, spec.epochs, spec.schedule, spec.warmup) == (None, 2.0, "constant", 0.0)
    assert (spec.proximal_mu, spec.max_update_norm) == (0.0, None)
    assert (spec.optimizer, spec.momentum, spec.batch_size) == ("sgd", 0.9, 4)


def test_answers_alone_bring_the_student_nearer(world):
    adapted, start, task, examples = world
    adapted.load(start)
    taught = fine_tune(adapted, task, examples, RECIPE, n_epochs=8, labels=("test", "owner"))[-1]
    adapted.load(taught)
    answers = asked(adapted, task, examples)

    def distance(values):
        adapted.load(values)
        agreement = Agreement(answers)
        measure(adapted, task, examples, 4, lambda *_: None, agreement.look)
        return agreement.kl

    before = distance(start)
    adapted.load(start)
    gradient = AnswersGradient(adapted, task, examples, answers, RECIPE)
    passes = fine_tune(adapted, task, examples, RECIPE, n_epochs=8, labels=NAMES, gradient=gradient)
    assert distance(taught) == pytest.approx(0, abs=1e-7)
    assert distance(passes[-1]) < 0.5 * before


def test_who_already_says_the_same_has_nothing_to_learn(world):
    adapted, start, task, examples = world
    adapted.load(start)
    gradient = AnswersGradient(adapted, task, examples, asked(adapted, task, examples), RECIPE)
    made = gradient.compute([examples[:4], examples[4:]])
    assert made.loss == pytest.approx(0, abs=1e-6)
    assert made.norm == pytest.approx(0, abs=1e-5)


def test_the_gradient_does_not_depend_on_how_a_step_is_cut_into_batches(world):
    adapted, start, task, examples = world
    adapted.load({name: value + 0.05 for name, value in start.items()})
    answers = asked(adapted, task, examples)
    adapted.load(start)
    gradient = AnswersGradient(adapted, task, examples, answers, RECIPE)
    whole = gradient.compute([examples])
    found = [parameter.grad.clone() for parameter in adapted.parameters.values()]
    parts = gradient.compute([examples[:3], examples[3:]])
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    for parameter, grad in zip(adapted.parameters.values(), found, strict=True):
        assert torch.allclose(parameter.grad, grad, atol=1e-6)
