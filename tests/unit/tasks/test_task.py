"""The digest of examples: equal for what a model cannot tell apart, different for anything else."""

import hashlib

import pytest

from fedlpp_cli.tasks.task import Example, digest_of, digest_of_set

ONE, TWO = Example((5, 6), (5, 6), was_cut=False), Example((7,), (7,), was_cut=False)


def test_where_a_text_was_cut_does_not_matter():
    assert digest_of([ONE]) == digest_of([Example((5, 6), (5, 6), was_cut=True)])
    assert digest_of([Example((5,), 1, False)]) == digest_of([Example((5,), 1, False, type_ids=())])


@pytest.mark.parametrize(
    "others",
    [
        [TWO, ONE],
        [ONE],
        [ONE, TWO, TWO],
        [],
        [Example((5, 6, 7), (5, 6, 7), False)],
        [Example((5, 6), (5, -100), False), TWO],
        [Example((5, 6), 1, False), TWO],
        [Example((5, 6), (5, 6), False, type_ids=(0, 1)), TWO],
        [Example((5,), (6,), False), Example((6, 7), (5, 7), False)],
    ],
)
def test_any_other_examples_have_another_digest(others):
    assert digest_of(others) != digest_of([ONE, TWO])


def test_a_class_is_not_a_label_of_one_token():
    assert digest_of([Example((5,), 1, False)]) != digest_of([Example((5,), (1,), False)])


def test_it_is_what_the_format_says():
    numbers = (2, 5, 6, 2**32, 1, 2, 0, 1)
    expected = hashlib.sha256(b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)).hexdigest()
    assert digest_of([Example((5, 6), 1, False, type_ids=(0, 1))]) == expected


def test_a_set_has_no_order_but_each_of_its_rows_counts():
    assert digest_of_set([ONE, TWO]) == digest_of_set([TWO, ONE])
    assert len({digest_of_set(rows) for rows in ([ONE], [ONE, ONE], [ONE, TWO], [], [ONE, TWO, TWO])}) == 5
    joined = b"".join(sorted(bytes.fromhex(digest_of([one])) for one in (ONE, TWO)))
    assert digest_of_set([TWO, ONE]) == hashlib.sha256(joined).hexdigest()
