"""Ticks, and how values are written."""

import pytest

from fedlpp_cli.reporting.figures import Axis
from fedlpp_cli.reporting.scales import scale_of, spread, tick_texts, value_text, value_texts


def test_ticks_are_round_numbers_around_the_values():
    scale = scale_of(Axis("accuracy"), [0.313, 0.784])
    assert scale.texts == ("0.3", "0.4", "0.5", "0.6", "0.7", "0.8")
    assert (scale.low, scale.high) == (0.3, 0.8)


def test_counts_have_no_ticks_between_whole_numbers():
    assert scale_of(Axis("round", "count"), [0, 1]).texts == ("0", "1")
    assert scale_of(Axis("round", "count"), [3]).texts == ("2", "3", "4")
    assert scale_of(Axis("round", "count"), range(17), 8).texts[-2:] == ("14", "16")


def test_bytes_begin_at_zero_and_the_axis_says_their_unit():
    scale = scale_of(Axis("sent", "bytes"), [130_000, 204_800])
    assert scale.label == "sent (kB)"
    assert scale.texts == ("0", "50", "100", "150", "200", "250")
    assert scale_of(Axis("sent", "bytes"), [12]).label == "sent (bytes)"


def test_one_value_or_none_has_an_axis_too():
    assert scale_of(Axis("x"), [0.5]).low < 0.5 < scale_of(Axis("x"), [0.5]).high
    assert scale_of(Axis("x"), []).texts == ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")


def test_values_outside_are_drawn_at_the_ends():
    scale = scale_of(Axis("x"), [0, 1])
    assert [scale.place(value, 100, 200) for value in (-3, 0, 0.5, 1, 9)] == [100, 100, 150, 200, 200]


def test_numbers_below_each_other_have_the_same_decimals():
    assert value_texts([0.99, 0.985, 1.05, None], 3) == ("0.99", "0.98", "1.05", "")
    assert value_texts([3.2, 6.42]) == ("3.200", "6.420")
    assert value_texts([1.0, 200.0]) == ("1", "200")
    assert value_texts([1e-5, 3.0]) == ("1e−05", "3")  # noqa: RUF001
    assert value_texts([]) == ()


def test_signs_are_as_wide_as_digits():
    assert value_text(-0.25) == "−0.25"  # noqa: RUF001
    assert tick_texts([-1.0, -0.5, 0.0]) == ("−1.0", "−0.5", "0.0")  # noqa: RUF001


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (3_400_000, "3.4 MB"), (2e12, "2.0 TB")],
)
def test_bytes_are_in_units_of_a_thousand(n_bytes, words):
    assert value_text(n_bytes, "bytes") == words


def test_names_that_would_cover_each_other_move_apart():
    assert spread([10.0, 11.0, 90.0], 17, 0, 100) == (10.0, 27.0, 90.0)
    assert spread([99.0, 98.0], 17, 0, 100) == (100.0, 83.0)
    assert spread([], 17, 0, 100) == ()
