"""Numbers for people and headers."""

from fedlpp_cli.rounding import mean_of, six_digits


def test_six_digits_are_kept():
    assert six_digits(1234567.891) == 1234570.0
    assert six_digits(0.1 + 0.2) == 0.3


def test_a_mean_is_over_what_is_there():
    assert mean_of([1.0, None, 2.0]) == 1.5
    assert mean_of([None, None]) is None
    assert mean_of([]) is None
