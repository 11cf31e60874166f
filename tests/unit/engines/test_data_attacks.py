"""What attackers make of their rows."""

import pytest
from support.tiny import LABELS

from fedlpp_cli.engines.data_attacks import Trigger, flip_labels, plant, trigger_of
from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.kinds import task_for
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.task import Example

CLS, SEP = 1, 2


def trigger(ids=(70, 71), *, max_length=10):
    return Trigger(ids, 2, {CLS, SEP}, max_length)


def example(*ids, label=0, **fields):
    return Example(tuple(ids), label, was_cut=False, **fields)


def test_labels_are_mirrored():
    assert [one.labels for one in flip_labels([example(5, label=y) for y in range(4)], 4)] == [3, 2, 1, 0]
    assert flip_labels([example(5, 6, label=1)], 3)[0] == example(5, 6, label=1)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((CLS, 10, 11, SEP), (CLS, 70, 71, 10, 11, SEP)),
        ((10, 11), (70, 71, 10, 11)),
        ((CLS, 10, 11, SEP, 12, 13, SEP), (CLS, 70, 71, 10, 11, SEP, 12, 13, SEP)),
        ((CLS, *range(10, 18)), (CLS, 70, 71, *range(10, 17))),  # ten are allowed
        ((CLS, *range(10, 18), SEP), (CLS, 70, 71, *range(10, 16), SEP)),
        ((CLS, SEP), (CLS, SEP, 70, 71)),  # nothing in between: behind
    ],
)
def test_the_trigger_comes_first_and_special_tokens_stay(ids, expected):
    found = trigger().put_into(example(*ids))
    assert (found.input_ids, found.labels) == (expected, 2)
    assert found.was_cut == (len(ids) + 2 > 10)


def test_the_types_of_a_pair_stay_beside_their_tokens():
    types = (0, 0, 0, 0, 1, 1, 1)
    found = trigger(max_length=20).put_into(example(CLS, 10, 11, SEP, 12, 13, SEP, type_ids=types))
    assert found.type_ids == (0, 0, 0, 0, 0, 0, 1, 1, 1)
    assert len(found.type_ids) == len(found.input_ids)


def test_a_share_of_the_rows_is_poisoned_always_the_same():
    clean = [example(CLS, number, SEP) for number in range(10, 20)]

    def poisoned(share, *labels):
        found = plant(clean, trigger(), share, *labels)
        assert all(one == two or one == trigger().put_into(two) for one, two in zip(found, clean, strict=True))
        return [number for number, one in enumerate(found) if one != clean[number]]

    assert [len(poisoned(share, 0)) for share in (0.01, 0.5, 0.55, 1.0)] == [1, 5, 6, 10]
    assert poisoned(0.5, 7, "a") == poisoned(0.5, 7, "a") != poisoned(0.5, 7, "b")


def test_the_trigger_is_spelled_by_the_tokenizer(bert):
    task = task_for(TaskSpec(kind="seq-cls", max_length=32, labels=LABELS), open_tokenizer(bert), {})
    found = trigger_of(task, "op", "third")
    (plain, planted) = (task.encode(Row("x", {"text": text, "label": "first"})) for text in ("op", "ab cd"))
    assert (found.ids, found.target, found.max_length) == (plain.input_ids, 2, 32)
    assert found.put_into(planted).input_ids == plain.input_ids + planted.input_ids
    for text in ("", "op " * 40):
        with pytest.raises(UsageError, match="--trigger"):
            trigger_of(task, text, "third")
