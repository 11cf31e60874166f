"""Rows of a classifier."""

import pytest
import torch
from support.tiny import LABELS, make_tokenizer

from fedlpp_cli.errors import DataError
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.seq_cls import SeqCls


def task(**columns):
    return SeqCls(TaskSpec(kind="seq-cls", max_length=8, labels=LABELS), make_tokenizer(), columns)


@pytest.mark.parametrize("label", ["second", 1, "1"])
def test_a_label_is_a_name_or_a_number(label):
    assert task().encode(Row("here", {"text": "ab", "label": label})).labels == 1


@pytest.mark.parametrize("label", ["fourth", 3, -1, "3", None, True, 1.0, "²"])
def test_an_unknown_label_is_refused_with_the_known_ones(label):
    with pytest.raises(DataError, match=r"here: label .*; this federation has first, second, third"):
        task().encode(Row("here", {"text": "ab", "label": label}))


def test_a_label_that_is_a_number_in_the_names_is_a_name():
    numbers = SeqCls(TaskSpec(kind="seq-cls", labels=("2", "1", "0")), make_tokenizer(), {})
    assert numbers.encode(Row("here", {"text": "ab", "label": "2"})).labels == 0


def test_a_long_text_is_cut_and_counted():
    example = task().encode(Row("here", {"text": "ab cd ef gh ij kl mn op ab", "label": 0}))
    assert example.was_cut
    assert len(example.input_ids) == 8
    assert not task().encode(Row("here", {"text": "ab", "label": 0})).was_cut


def test_columns_may_have_other_names():
    example = task(text="body", label="kind").encode(Row("here", {"body": "ab", "kind": "third"}))
    assert example.labels == 2


def test_a_pair_of_texts_makes_one_input():
    one = task().encode(Row("here", {"text": "ab", "label": 0}))
    two = task().encode(Row("here", {"text": "ab", "text_pair": "cd", "label": 0}))
    assert len(two.input_ids) > len(one.input_ids)


def test_type_ids_are_padded_with_the_rest():
    from dataclasses import replace

    example = task().encode(Row("here", {"text": "ab", "label": 0}))
    pair = replace(example, input_ids=(4, 5, 6, 7), type_ids=(0, 0, 1, 1))
    batch = task().collate([example, pair])
    assert batch["token_type_ids"].tolist()[1] == [0, 0, 1, 1]
    assert batch["token_type_ids"].shape == batch["input_ids"].shape


def test_the_loss_is_summed_cross_entropy():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = -logits.log_softmax(-1)[range(4), labels].sum()
    assert torch.allclose(task().loss(logits, labels), expected)
    assert task().n_targets(labels) == 4
