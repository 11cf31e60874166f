"""Classes out of how logits move."""

import numpy as np

from fedlpp_cli.leakage.label_recovery import recover_labels
from fedlpp_cli.tasks.task import Example


def examples(*counts):
    return [Example((1, 2), label, was_cut=False) for label, count in enumerate(counts) for _ in range(count)]


def test_classes_that_rise_more_are_more_frequent():
    found = recover_labels(np.zeros(3), np.array([0.3, -0.1, 0.1]), examples(5, 1, 2), 3)
    assert (found.n_pairs, found.in_order, found.most_frequent) == (3, 1.0, True)
    turned = recover_labels(np.zeros(3), np.array([-0.3, 0.1, -0.1]), examples(5, 1, 2), 3)
    assert (turned.in_order, turned.most_frequent) == (0.0, False)


def test_a_common_shift_says_nothing():
    shifted = recover_labels(np.full(3, 7.0), np.array([5.3, 4.9, 5.1]), examples(5, 1, 2), 3)
    assert shifted.in_order == 1.0


def test_equal_classes_have_no_order():
    found = recover_labels(np.zeros(2), np.ones(2), examples(3, 3), 2)
    assert (found.n_pairs, found.in_order, found.most_frequent) == (0, None, None)
