"""Which examples are in which batch of which step."""

import itertools

import pytest

from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.training.sampling import ShuffledPasses


def take(count, n_examples, batch_size, *labels, first=0, accumulation=1):
    spec = TrainSpec(steps=1, batch_size=batch_size, gradient_accumulation=accumulation)
    return list(itertools.islice(ShuffledPasses(n_examples, spec, labels).steps_from(first), count))


def test_every_pass_sees_every_example_once():
    for start in (0, 3):
        seen = [index for step in take(6, 10, 4, "x")[start : start + 3] for batch in step for index in batch]
        assert sorted(seen) == list(range(10))


def test_the_last_batch_of_a_pass_may_be_short():
    assert [len(batch) for (batch,) in take(4, 10, 4, "x")] == [4, 4, 2, 4]


def test_a_step_has_as_many_batches_as_are_accumulated():
    parts = take(4, 10, 4, "x", accumulation=3)
    assert [batch for step in parts for batch in step] == [batch for (batch,) in take(12, 10, 4, "x")]


@pytest.mark.parametrize("first", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_training_can_start_at_any_step(first, accumulation):
    whole = take(first + 5, 10, 4, "x", accumulation=accumulation)
    assert take(5, 10, 4, "x", first=first, accumulation=accumulation) == whole[first:]


def test_the_order_depends_on_the_names_and_nothing_else():
    assert take(5, 20, 4, "federation", 1, "a") == take(5, 20, 4, "federation", 1, "a")
    assert take(5, 20, 4, "federation", 1, "a") != take(5, 20, 4, "federation", 1, "b")
    assert take(5, 20, 4, "federation", 1, "a") != take(5, 20, 4, "federation", 2, "a")


def test_passes_differ():
    first, second = take(10, 20, 4, "x")[:5], take(10, 20, 4, "x")[5:]
    assert first != second
