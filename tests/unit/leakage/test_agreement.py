"""Predictions next to the owner's."""

import math

import pytest
import torch
from torch.nn import functional

from fedlpp_cli.leakage.agreement import Agreement, Answers, divergence, predictions
from fedlpp_cli.tasks.task import IGNORED, Example


def text(*labels):
    return Example(input_ids=tuple(range(len(labels))), labels=labels, was_cut=False)


# Two, one and three predictions: the first label of a row is never predicted.
EXAMPLES = (text(1, 2, 3), text(IGNORED, IGNORED, 1), text(0, 1, 2, 3))
LABELS = torch.tensor([[1, 2, 3, IGNORED], [IGNORED, IGNORED, 1, IGNORED], [0, 1, 2, 3]])


def logits(seed):
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))


def compared(first, second, **options):
    answers = Answers(EXAMPLES, **options)
    answers.look([0, 1, 2], first, LABELS)
    agreement = Agreement(answers)
    agreement.look([0, 1, 2], second, LABELS)
    return answers, agreement


def by_hand(first, second, rows):
    total = equal = n = 0
    for row in rows:
        for position in range(3):
            if LABELS[row, position + 1] != IGNORED:
                p, q = (x[row, position].double().softmax(-1) for x in (first, second))
                total += float((p * (p / q).log()).sum())
                equal += int(p.argmax() == q.argmax())
                n += 1
    return total / n, equal / n


def test_only_what_is_predicted_counts():
    first, second = logits(1), logits(2)
    answers, agreement = compared(first, second)
    assert len(answers) == 3
    kl, equal = by_hand(first, second, (0, 1, 2))
    assert (agreement.kl, agreement.agreement) == (pytest.approx(kl, rel=1e-5), pytest.approx(equal))


def test_the_owner_agrees_with_itself():
    _, agreement = compared(logits(1), logits(1))
    assert agreement.kl == pytest.approx(0, abs=1e-7)
    assert agreement.agreement == 1


def test_batches_and_their_order_change_nothing():
    first, second = logits(1), logits(2)
    answers = Answers(EXAMPLES)
    answers.look([2, 0], first[[2, 0]], LABELS[[2, 0]])
    answers.look([1], first[1:2], LABELS[1:2])
    agreement = Agreement(answers)
    for index in (1, 2, 0):
        agreement.look([index], second[index : index + 1], LABELS[index : index + 1])
    assert agreement.kl == pytest.approx(by_hand(first, second, (0, 1, 2))[0], rel=1e-5)


@pytest.mark.parametrize(("limit", "n"), [(1, 1), (10, 1), (14, 1), (15, 2), (29, 2), (30, 3)])
def test_the_first_examples_are_kept_as_far_as_they_fit_and_one_always_is(limit, n):
    first, second = logits(1), logits(2)
    answers, agreement = compared(first, second, max_numbers=limit)
    assert len(answers) == n
    assert answers.of(n) is None
    assert agreement.kl == pytest.approx(by_hand(first, second, range(n))[0], rel=1e-5)


def test_a_classifier_predicts_once():
    scores = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    said = predictions(scores, torch.tensor([0, 1]))
    assert [tuple(one.shape) for one in said] == [(1, 2), (1, 2)]
    assert torch.equal(torch.cat(said), scores.log_softmax(-1))


def test_divergence_of_known_distributions():
    owners = torch.tensor([[0.5, 0.5]]).log()
    others = torch.tensor([[0.25, 0.75]]).log()
    assert divergence(owners, others).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)


def test_the_gradient_of_the_divergence_is_that_of_cross_entropy_with_soft_labels():
    owners = logits(1)[0].log_softmax(-1)
    weights = logits(2)[0].requires_grad_()
    divergence(owners, weights.log_softmax(-1)).backward()
    again = logits(2)[0].requires_grad_()
    functional.cross_entropy(again, owners.exp(), reduction="sum").backward()
    assert torch.allclose(weights.grad, again.grad, atol=1e-6)
