"""Widths for so many bytes, and rows that nothing beats."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.planning.allocation import allocate
from fedlpp_cli.planning.pareto import front
from fedlpp_cli.records.plans import GroupRow

WIDTHS = ("4", "3", "2")


def row(group, bits, n_bytes, score):
    return GroupRow(
        group=group, bits=bits, n_bytes=n_bytes, loss_increase=0.0, gradient_change=0.0, cosine=1.0, score=score
    )  # fmt: skip


def rows(**groups):
    """Group to (bytes, score) of each width."""
    return [row(g, bits, *cell) for g, cells in groups.items() for bits, cell in zip(WIDTHS, cells, strict=True)]


def test_the_cheapest_step_for_a_byte_comes_first():
    table = rows(a=[(40, 0.0), (30, 1.0), (20, 9.0)], b=[(400, 0.0), (300, 2.0), (200, 60.0)])
    assert allocate(table, WIDTHS, 440) == {"a": "4", "b": "4"}
    assert allocate(table, WIDTHS, 439) == {"a": "4", "b": "3"}  # 0.02 a byte, against 0.1
    assert allocate(table, WIDTHS, 339) == {"a": "3", "b": "3"}
    assert allocate(table, WIDTHS, 329) == {"a": "3", "b": "2"}  # 0.58 a byte, against 0.8
    assert allocate(table, WIDTHS, 220) == {"a": "2", "b": "2"}
    assert allocate(table, WIDTHS, 219) is None


def test_a_step_that_lowers_the_score_comes_before_all_others():
    table = rows(a=[(40, 5.0), (30, 5.1), (20, 5.2)], b=[(40, 5.0), (30, 4.0), (20, 9.0)])
    assert allocate(table, WIDTHS, 79) == {"a": "4", "b": "3"}


def test_a_width_that_saves_nothing_is_passed_over():
    table = rows(tiny=[(3, 0.0), (3, 0.5), (2, 1.0)])
    assert allocate(table, WIDTHS, 2) == {"tiny": "2"}


@given(
    st.lists(st.tuples(*[st.integers(1, 50)] * 3, *[st.floats(-3, 3)] * 3), min_size=1, max_size=4), st.integers(0, 200)
)
def test_an_allocation_keeps_to_its_bytes_and_exists_where_one_can(cells, limit):
    table = rows(**{
        f"g{number}": list(zip(sorted(cell[:3], reverse=True), cell[3:], strict=True))
        for number, cell in enumerate(cells)
    })  # fmt: skip
    sizes = {(one.group, one.bits): one.n_bytes for one in table}
    found = allocate(table, WIDTHS, limit)
    least = sum(sizes[f"g{number}", "2"] for number in range(len(cells)))
    if found is None:
        assert least > limit
    else:
        assert sum(sizes[item] for item in found.items()) <= limit


@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=12))
def test_the_front_is_what_the_definition_says(costs):
    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    kept = front(costs)
    assert kept == [i for i, own in enumerate(costs) if not any(beats(other, own) for other in costs)]
    for index, other in itertools.product(range(len(costs)), kept):
        assert index in kept or not beats(costs[index], costs[other])
    assert bool(kept) == bool(costs)


def test_equal_rows_stay_together():
    assert front([(1.0, 2.0), (1.0, 2.0), (2.0, 2.0)]) == [0, 1]
    with pytest.raises(ValueError, match="zip"):
        front([(1.0, 2.0), (0.0,)])
