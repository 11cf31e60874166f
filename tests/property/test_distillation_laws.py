"""Laws of answers and of the loss that students are held against."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlpp_cli.randomness import generator
from fedlpp_cli.tasks.soft_labels import SoftLabels, soft_labels
from fedlpp_cli.training.distillation_loss import distillation_loss, tempered_kl

SIZES = st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 8.0])


def draw(sizes, name):
    n, n_outcomes, seed = sizes
    return 3 * torch.randn(n, n_outcomes, generator=generator(seed, name), dtype=torch.float64)


@given(sizes=SIZES, temperature=TEMPERATURES)
def test_a_student_that_says_the_same_has_no_loss_and_no_gradient(sizes, temperature):
    for top_k in range(1, sizes[1] + 1):
        logits = draw(sizes, "teacher").float().requires_grad_()
        loss = distillation_loss(logits, soft_labels(logits.detach(), top_k, "log-probs"), "kl", temperature)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=2e-3)  # answers are told in float16
        assert logits.grad.abs().max() < 0.05 * temperature


@given(sizes=SIZES, temperature=TEMPERATURES)
def test_with_all_outcomes_it_is_hintons_loss(sizes, temperature):
    teacher, student = draw(sizes, "teacher"), draw(sizes, "student")
    p, q = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum()
    answers = SoftLabels(teacher.float(), None, "scores")
    found = distillation_loss(student.float(), answers, "kl", temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-4)


@given(sizes=SIZES)
def test_telling_less_never_makes_models_look_more_different(sizes):
    """The divergence of two distributions never grows when outcomes are put together."""
    teacher, student = draw(sizes, "teacher").float(), draw(sizes, "student").float()
    losses = [
        distillation_loss(student, soft_labels(teacher, top_k, "log-probs"), "kl", 1.0).item()
        for top_k in range(1, sizes[1] + 1)
    ]
    assert all(few <= more + 0.02 * len(teacher) for few in losses for more in losses[-1:])
    assert min(losses) >= -1e-3


@given(sizes=SIZES)
def test_two_teachers_pull_to_the_mean_of_their_answers(sizes):
    one, other, student = (draw(sizes, name).softmax(-1) for name in ("one", "other", "student"))
    weights = student.log().requires_grad_()
    (tempered_kl(one.log(), weights, 1.0) + tempered_kl(other.log(), weights, 1.0)).backward()
    alone = student.log().requires_grad_()
    (2 * tempered_kl((one + other).div(2).log(), alone, 1.0)).backward()
    assert torch.allclose(weights.grad, alone.grad, atol=1e-9)


@given(sizes=SIZES)
def test_mean_squares_are_those_of_scores(sizes):
    teacher, student = draw(sizes, "teacher").float(), draw(sizes, "student").float()
    found = distillation_loss(student, soft_labels(teacher, sizes[1], "scores"), "mse", 7.0)
    assert found.item() == pytest.approx(((teacher - student) ** 2).mean(-1).sum().item(), rel=1e-5)


@settings(max_examples=30)
@given(sizes=SIZES, data=st.data())
def test_renaming_outcomes_renames_answers(sizes, data):
    logits = draw(sizes, "teacher").float()
    order = data.draw(st.permutations(range(sizes[1])))
    renamed = torch.empty_like(logits)
    renamed[:, torch.tensor(order)] = logits
    for top_k in range(1, sizes[1] + 1):
        found = soft_labels(logits, top_k, "log-probs").renumbered(order)
        expected = soft_labels(renamed, top_k, "log-probs")
        assert torch.allclose(found.values, expected.values, atol=2e-3)
        assert (found.indices is None) == (expected.indices is None)
        if found.indices is not None:
            assert torch.equal(found.indices, expected.indices)


def test_what_is_all_but_impossible_is_still_a_number():
    answers = soft_labels(torch.tensor([[0.0, 5000.0, -5000.0]]), 1, "log-probs")
    assert answers.indices.tolist() == [[1]]
    assert torch.isfinite(answers.values).all()
    loss = distillation_loss(torch.zeros(1, 3, requires_grad=True), answers, "kl", 2.0)
    assert torch.isfinite(loss)
