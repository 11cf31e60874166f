"""Parts of batches, checkpointed activations, frozen layers: the same gradient for less memory or work."""

import pytest
import torch
from support.tiny import make_tokenizer, prompt_rows

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.training.gradients import MeanGradient
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.shares import Share
from fedlpp_cli.training.trial import LongestFirst, count_tokens, try_steps

LM = TaskSpec(max_length=32)
SPEC = TrainSpec(steps=2, batch_size=6)


@pytest.fixture
def task():
    return CausalLM(LM, make_tokenizer(), {})


@pytest.fixture
def examples(task):
    rows = prompt_rows(12, seed=0)
    for number, row in enumerate(rows):
        row["completion"] += " ab" * (number % 5)
    return [task.encode(Row("here", row)) for row in rows]


def fresh(folder, **options):
    lora = resolve_lora(folder, LM, LoraSpec(rank=4, **options))
    adapted = AdaptedModel(open_model(folder, LM).model, lora)
    random = torch.Generator().manual_seed(0)
    values = first_values(folder, LM, lora, seed=1)
    # No factor is zero, so that each has a gradient.
    adapted.load({name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in values.items()})
    return adapted


def gradients(adapted, task, examples, share=None):
    adapted.model.train()
    found = MeanGradient(adapted, task, SPEC, share=share or Share()).compute([examples[:7], examples[7:]])
    return found, {name: parameter.grad.clone() for name, parameter in adapted.parameters.items()}


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_a_gradient_is_the_same_in_parts(llama, task, examples, at_once):
    whole, expected = gradients(fresh(llama), task, examples)
    made, found = gradients(fresh(llama), task, examples, Share(micro_batch=at_once))
    assert made.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name


def test_whole_batches_are_one_part_whatever_their_size(examples):
    assert list(Share().parts(examples)) == [examples]


@pytest.mark.parametrize("n_processes", [2, 3, 20])
def test_processes_have_each_example_once(examples, n_processes):
    parts = [list(Share(2, rank, n_processes).parts(examples)) for rank in range(n_processes)]
    taken = [example for of_one in parts for part in of_one for example in part]
    assert sorted(map(id, taken)) == sorted(map(id, examples))
    assert all(1 <= len(part) <= 2 for of_one in parts for part in of_one)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_activations_give_equal_adapters(request, task, examples, kind, dropout):
    folder = request.getfixturevalue(kind)
    plain, checkpointed = fresh(folder, dropout=dropout), fresh(folder, dropout=dropout)
    checkpointed.checkpoint_gradients()
    seen = []
    blocks = checkpointed.model.model.layers if kind == "llama" else checkpointed.model.transformer.h
    # Hooks of the block itself stay outside of what is computed again; those of what is in it do not.
    next(blocks[0].children()).register_forward_pre_hook(lambda *_: seen.append(1))
    needs = []
    checkpointed.model.get_input_embeddings().register_forward_hook(lambda *all_: needs.append(all_[-1].requires_grad))
    for adapted in (plain, checkpointed):
        train(adapted, task, examples, SPEC, labels=("f", 0, "a"))
    assert len(seen) == 2 * SPEC.steps
    assert not any(needs)
    for name, value in plain.values().items():
        assert torch.allclose(checkpointed.values()[name], value, atol=1e-7), name


def test_nothing_is_differentiated_below_the_first_adapter(llama, task, examples):
    lora = {"target_modules": ("model.layers.1.self_attn.q_proj",)}
    adapted = fresh(llama, **lora)
    needs = {}

    def note(name):
        return lambda module, inputs, output: needs.__setitem__(
            name, (output[0] if isinstance(output, tuple) else output).requires_grad
        )

    for number, layer in enumerate(adapted.model.model.layers):
        layer.register_forward_hook(note(number))
    adapted.model.get_input_embeddings().register_forward_hook(note("embeddings"))
    _, found = gradients(adapted, task, examples)
    assert needs == {"embeddings": False, 0: False, 1: True}
    assert all(gradient.abs().max() > 0 for gradient in found.values())


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("quantized", [False, True])
def test_attention_is_the_fused_one(llama, compute, quantized):
    model = open_model(llama, LM, compute=compute, quantized=quantized).model
    assert model.config._attn_implementation == "sdpa"


def test_a_trial_changes_nothing(llama, task, examples):
    tried, untouched = fresh(llama, dropout=0.3), fresh(llama, dropout=0.3)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    trial = try_steps(tried, task, examples, SPEC, n_trials=2, share=Share())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trial.step_seconds > 0
    assert trial.memory_peak > 0
    assert all(torch.equal(value, untouched.values()[name]) for name, value in tried.values().items())
    for adapted in (tried, untouched):
        train(adapted, task, examples, SPEC, labels=("f", 0, "a"))
    assert all(torch.equal(value, untouched.values()[name]) for name, value in tried.values().items())


def test_trials_take_the_longest_examples(examples):
    spec = TrainSpec(steps=1, batch_size=4, gradient_accumulation=2)
    step = next(LongestFirst(examples, spec).steps_from(0))
    lengths = sorted((len(example.input_ids) for example in examples), reverse=True)
    assert [len(examples[index].input_ids) for batch in step for index in batch] == lengths[:8]


def test_tokens_of_whole_passes_are_those_of_the_examples(examples):
    n_tokens, relative = count_tokens(examples, TrainSpec(epochs=2.0, batch_size=6), ("f", 0, "a"))
    assert n_tokens == 2 * sum(len(example.input_ids) for example in examples)
    assert 0 < relative <= 1
