"""Ctrl-C is noted once, and is what it always was outside and the second time."""

import signal
import threading

import pytest

from fedlpp_cli.steps.interrupts import noted_interrupts


def test_the_first_is_noted_and_said_and_the_second_is_raised():
    said = []
    with noted_interrupts(lambda: said.append("stopping")) as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGINT)
        assert (asked.is_set(), said) == (True, ["stopping"])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_afterwards_it_is_as_before_even_after_an_error():
    with pytest.raises(ValueError, match="oops"), noted_interrupts(lambda: None):
        raise ValueError("oops")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_where_it_is_ignored_it_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted_interrupts(lambda: None) as asked:
            signal.raise_signal(signal.SIGINT)
        assert not asked.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_cannot_have_it_and_does_not_try():
    found = []

    def run():
        with noted_interrupts(lambda: None) as asked:
            found.append(asked.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
