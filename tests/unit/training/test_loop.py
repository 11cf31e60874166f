"""The training loop on tiny models."""

import math

import pytest
import torch
from support.tiny import make_tokenizer, prompt_rows

from fedlpp_cli.errors import GateError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.training.gates import check_update
from fedlpp_cli.training.loop import train

LM = TaskSpec(max_length=32)
NAMES = ("federation", 0, "a")


@pytest.fixture
def task():
    return CausalLM(LM, make_tokenizer(), {})


@pytest.fixture
def examples(task):
    return [task.encode(Row("here", row)) for row in prompt_rows(20, seed=0)]


@pytest.fixture
def fresh(llama):
    def make(**options):
        lora = resolve_lora(llama, LM, LoraSpec(rank=4, **options))
        adapted = AdaptedModel(open_model(llama, LM).model, lora)
        adapted.load(first_values(llama, LM, lora, seed=1))
        return adapted

    return make


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_lowers_the_loss_and_leaves_the_base_alone(fresh, task, examples, optimizer):
    adapted = fresh()
    frozen = {n: p.clone() for n, p in adapted.model.named_parameters() if not p.requires_grad}
    spec = TrainSpec(steps=30, batch_size=20, optimizer=optimizer, learning_rate={"adamw": 1e-2, "sgd": 1.0}[optimizer])
    seen = []
    run = train(adapted, task, examples, spec, labels=NAMES, on_step=seen.append)
    assert run.loss_last < run.loss_first
    assert run.n_steps == 30
    assert [(done.step, done.total) for done in seen] == [(n, 30) for n in range(1, 31)]
    assert same(frozen, {n: p for n, p in adapted.model.named_parameters() if not p.requires_grad})
    assert not adapted.model.training


def test_the_same_names_give_the_same_adapter_with_dropout_too(fresh, task, examples):
    spec = TrainSpec(steps=4, batch_size=4)
    ended = []
    for noise in (0, 1):
        torch.manual_seed(noise)  # what else the process draws must not matter
        adapted = fresh(dropout=0.3)
        train(adapted, task, examples, spec, labels=NAMES)
        ended.append(adapted.values())
    assert same(*ended)
    other = fresh(dropout=0.3)
    train(other, task, examples, spec, labels=("federation", 0, "b"))
    assert not same(ended[0], other.values())


def test_training_gives_the_global_generator_back_as_it_was(fresh, task, examples):
    adapted = fresh(dropout=0.1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(adapted, task, examples, TrainSpec(steps=1), labels=NAMES)
    assert torch.equal(torch.rand(3), expected)


def test_accumulated_batches_are_one_large_batch(fresh, task, examples):
    """Also where the batches have different numbers of tokens: the mean is over all of them."""
    common = {"steps": 2, "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 0.0}
    whole, parts = fresh(), fresh()
    train(whole, task, examples, TrainSpec(batch_size=20, **common), labels=NAMES)
    train(parts, task, examples, TrainSpec(batch_size=5, gradient_accumulation=4, **common), labels=NAMES)
    for name, value in whole.values().items():
        assert torch.allclose(parts.values()[name], value, atol=1e-6)


def test_gradients_are_clipped_to_the_norm(fresh, task, examples):
    norms = {}
    for limit in (0.0, 1e-3):
        adapted = fresh()
        before = adapted.values()
        spec = TrainSpec(steps=1, optimizer="sgd", learning_rate=1.0, weight_decay=0.0, max_grad_norm=limit)
        train(adapted, task, examples, spec, labels=NAMES)
        after = adapted.values()
        norms[limit] = math.sqrt(sum((after[name] - before[name]).square().sum().item() for name in before))
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[0.0] > 0.01


def test_a_loss_that_is_no_number_stops_the_training(fresh, task, examples):
    adapted = fresh()
    for parameter in adapted.parameters.values():
        parameter.data.fill_(math.nan)
    with pytest.raises(GateError, match="the loss is nan at step 1; nothing was written"):
        train(adapted, task, examples, TrainSpec(steps=3), labels=NAMES)


@pytest.mark.parametrize(
    ("update", "limit", "message"),
    [
        ({"x": torch.zeros(3)}, None, "changed no weight"),
        ({"x": torch.tensor([math.nan])}, None, "x: not finite"),
        ({"a": torch.ones(1), "x": torch.tensor([math.inf])}, None, "x: not finite"),
        ({"x": torch.tensor([3.0, 4.0])}, 4.9, "norm is 5, the package allows 4.9"),
    ],
)
def test_bad_updates_are_stopped_before_they_are_written(update, limit, message):
    with pytest.raises(GateError, match=message):
        check_update(update, limit)


def test_the_norm_is_over_all_tensors():
    assert check_update({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 5.0) == 5.0
