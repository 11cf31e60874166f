"""DP-SGD's sampling and gradients, on tiny real models."""

import itertools
from dataclasses import replace

import pytest
import torch
from support.tiny import label_rows, make_tokenizer, prompt_rows

from fedlpp_cli.errors import ArtifactError, ModelError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.privacy.secret_stream import SecretStream
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.training.batching import batch_maker, buckets
from fedlpp_cli.training.example_gradients import ExampleGradients
from fedlpp_cli.training.held import Held, Resumable
from fedlpp_cli.training.poisson import PoissonSampling, sampling_rate
from fedlpp_cli.training.private_gradient import PrivateGradient

KINDS = {
    "llama": (TaskSpec(max_length=32), prompt_rows),
    "gpt2": (TaskSpec(max_length=32), prompt_rows),
    "bert": (TaskSpec(kind="seq-cls", max_length=32, labels=("first", "second", "third")), label_rows),
    "roberta": (TaskSpec(kind="seq-cls", max_length=32, labels=("first", "second", "third")), label_rows),
}
SPEC = TrainSpec(steps=1, batch_size=4)


def stream(key=7):
    return SecretStream(bytes([key]) * 32, "test")


@pytest.fixture(params=KINDS)
def world(request):
    spec, rows = KINDS[request.param]
    folder = request.getfixturevalue(request.param)
    lora = resolve_lora(folder, spec, LoraSpec(rank=4))
    adapted = AdaptedModel(open_model(folder, spec).model, lora)
    adapted.load(first_values(folder, spec, lora, seed=1))
    with torch.no_grad():  # B starts at zero, and A's gradient with it
        for name, parameter in adapted.parameters.items():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    task = task_for(spec, make_tokenizer(), {})
    return adapted, task, [task.encode(Row("here", row)) for row in rows(6, seed=0)]


def gradient(world, batches, *, sigma=1e-12, bound=1e6, spec=SPEC, expected=4.0, **options):
    adapted, task, _ = world
    made = PrivateGradient(
        adapted, task, spec, stream=options.pop("stream", stream()), noise_multiplier=sigma, max_grad_norm=bound,
        expected_batch=expected, **options,
    )  # fmt: skip
    made.compute(batches)
    made.close()
    return torch.cat([parameter.grad.double().flatten() for parameter in adapted.parameters.values()])


def of_length(example, length):
    """Its tokens over and over, `length` of them."""
    n_times = length // len(example.input_ids) + 1
    labels = example.labels if isinstance(example.labels, int) else (example.labels * n_times)[-length:]
    return replace(example, input_ids=(example.input_ids * n_times)[-length:], labels=labels)


def alone(world, example):
    """What autograd says of one example."""
    adapted, task, _ = world
    batch = task.collate([example])
    labels = batch.pop("labels")
    loss = task.loss(adapted.logits(batch), labels) / task.n_targets(labels)
    found = torch.autograd.grad(loss, list(adapted.parameters.values()))
    return torch.cat([one.double().flatten() for one in found])


def test_without_noise_and_bound_it_is_the_mean_of_the_examples_gradients(world):
    examples = world[2]
    expected = sum(alone(world, example) for example in examples) / 4
    for batches in ([examples], [examples[:4], examples[4:]], [[example] for example in examples]):
        assert torch.allclose(gradient(world, batches), expected, rtol=1e-4, atol=1e-6)


def test_examples_of_like_length_together_have_the_gradient_of_padded_ones(world):
    """Lengths differ much; every example is cut, so that the bound meets each by itself."""
    adapted, task, examples = world
    mixed = [of_length(example, 3 + 5 * number) for number, example in enumerate(examples)]
    assert len(buckets(mixed, 16)) > 1
    for batches in ([mixed], [mixed[:4], mixed[4:]]):
        padded = gradient(world, batches, bound=0.05)
        found = gradient(world, batches, bound=0.05, make_batches=batch_maker("bucketed", adapted, task))
        assert (found - padded).norm() < 1e-5 * padded.norm()
    one_by_one = gradient(world, [[one] for one in mixed], bound=0.05)
    assert (one_by_one - found).norm() < 1e-5 * found.norm()


def test_each_example_is_cut_by_itself_whatever_its_neighbours(world):
    examples, bound = world[2], 0.05
    singles = [alone(world, example) for example in examples]
    assert all(single.norm() > bound for single in singles)
    expected = sum(single * (bound / single.norm()) for single in singles) / 4
    found = gradient(world, [examples], sigma=1e-12, bound=bound)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_no_example_changes_the_sum_by_more_than_the_bound(world):
    examples = world[2]
    for bound in (1e-3, 0.1, 10.0):
        whole = gradient(world, [examples], bound=bound, expected=1.0)
        for index in range(len(examples)):
            without = gradient(world, [examples[:index] + examples[index + 1 :]], bound=bound, expected=1.0)
            assert (whole - without).norm() <= bound * (1 + 1e-4)


def test_the_noise_has_the_standard_deviation_that_is_accounted_for_with_examples_and_without(world):
    examples = world[2]
    silent = gradient(world, [examples], sigma=1e-12, bound=0.5)
    noisy = gradient(world, [examples], sigma=3.0, bound=0.5)
    empty = gradient(world, [], sigma=3.0, bound=0.5)
    assert (noisy - silent).std().item() == pytest.approx(3.0 * 0.5 / 4.0, rel=0.1)
    assert torch.allclose(noisy - silent, empty, atol=1e-5)


def test_noise_is_that_of_key_and_step(world):
    first = gradient(world, [], sigma=1.0)
    assert torch.equal(gradient(world, [], sigma=1.0), first)
    assert not torch.equal(gradient(world, [], sigma=1.0, first_step=1), first)
    assert not torch.equal(gradient(world, [], sigma=1.0, stream=stream(8)), first)


def test_the_model_is_left_without_hooks(world):
    gradient(world, [world[2]])
    assert not any(module._forward_hooks for module in world[0].model.modules())


def test_layers_that_are_not_linear_are_refused(llama):
    spec = KINDS["llama"][0]
    lora = resolve_lora(llama, spec, LoraSpec(rank=4, modules_to_save=("model.norm",)))
    adapted = AdaptedModel(open_model(llama, spec).model, lora)
    with pytest.raises(ModelError, match="linear layers only"):
        ExampleGradients(adapted.model, adapted.parameters)


def test_each_example_is_drawn_by_itself_at_the_rate():
    spec = TrainSpec(steps=1, batch_size=4, gradient_accumulation=2)
    assert sampling_rate(80, spec) == 0.1
    steps = list(itertools.islice(PoissonSampling(80, spec, stream()).steps_from(0), 1000))
    drawn = [sorted(index for batch in step for index in batch) for step in steps]
    assert all(len(set(one)) == len(one) for one in drawn)
    assert all(1 <= len(batch) <= 4 for step in steps for batch in step)
    sizes = torch.tensor([len(one) for one in drawn], dtype=torch.float64)
    assert sizes.mean().item() == pytest.approx(8.0, rel=0.05)
    assert sizes.var().item() == pytest.approx(7.2, rel=0.2)
    counts = torch.bincount(torch.tensor([index for one in drawn for index in one]), minlength=80)
    assert (counts > 50).all()
    assert (counts < 150).all()


def test_a_step_may_be_empty_and_a_training_can_start_at_any_step():
    sampler = PoissonSampling(40, TrainSpec(steps=1, batch_size=1), stream())
    steps = list(itertools.islice(sampler.steps_from(0), 30))
    assert [] in steps
    assert list(itertools.islice(sampler.steps_from(11), 19)) == steps[11:]
    other = PoissonSampling(40, TrainSpec(steps=1, batch_size=1), stream(8))
    assert list(itertools.islice(other.steps_from(0), 30)) != steps


def test_few_examples_are_all_in_every_step():
    sampler = PoissonSampling(3, TrainSpec(steps=1, batch_size=4), stream())
    assert next(sampler.steps_from(0)) == [[0, 1, 2]]


def test_batches_are_as_small_as_is_asked_for_and_have_the_same_examples():
    spec = TrainSpec(steps=1, batch_size=4, gradient_accumulation=2)
    whole, small = (next(PoissonSampling(80, spec, stream(), micro_batch=n).steps_from(3)) for n in (None, 1))
    assert [index for batch in whole for index in batch] == [index for batch in small for index in batch]
    assert {len(batch) for batch in small} == {1}


# Kept and put back


def made(world, key=7):
    adapted, task, _ = world
    return PrivateGradient(
        adapted, task, SPEC, stream=stream(key), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=4.0
    )


def test_it_goes_on_with_the_noise_of_the_step(world):
    first = made(world)
    assert isinstance(first, Resumable)
    first.compute([world[2]])
    held = first.held()
    last = first.compute([])
    noise = [parameter.grad.clone() for parameter in world[0].parameters.values()]
    first.close()
    second = made(world)
    second.put_back(Held(dict(held.tensors), dict(held.values)))
    assert second.compute([]) == last
    assert all(torch.equal(one, p.grad) for one, p in zip(noise, world[0].parameters.values(), strict=True))
    second.close()


KEY = torch.full((32,), 7, dtype=torch.uint8)
VALUES = {"step": 1, "loss": 0.5}


@pytest.mark.parametrize(
    ("tensors", "values"),
    [
        ({}, VALUES),
        ({"key": KEY + 1}, VALUES),
        ({"key": KEY[:31]}, VALUES),
        ({"key": KEY.float()}, VALUES),
        ({"key": KEY, "more": KEY}, VALUES),
        ({"key": KEY}, {"step": 1}),
        ({"key": KEY}, {"step": -1, "loss": 0.5}),
        ({"key": KEY}, {"step": True, "loss": 0.5}),
        ({"key": KEY}, {"step": 1, "loss": None}),
        ({"key": KEY}, {**VALUES, "more": 1}),
    ],
)
def test_what_is_not_its_own_is_not_put_back(llama, tensors, values):
    spec, rows = KINDS["llama"]
    lora = resolve_lora(llama, spec, LoraSpec(rank=4))
    world = AdaptedModel(open_model(llama, spec).model, lora), task_for(spec, make_tokenizer(), {}), rows
    gradient = made(world)
    with pytest.raises(ArtifactError):
        gradient.put_back(Held(tensors, values))
    gradient.put_back(Held({"key": KEY}, VALUES))
    assert gradient.step == 1
