"""Canonical JSON: one value, one sequence of bytes; whatever else parses is refused."""

import os
import subprocess
import sys

import pytest

from fedlpp_cli.canonical import decode_object, encode
from fedlpp_cli.errors import ArtifactError


def decode(data, *, max_bytes=2**20):
    return decode_object(data, source="somewhere", max_bytes=max_bytes)


def nested(depth):
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": {"d": None, "c": True}}, b'{"a":{"c":true,"d":null},"b":1}'),
        ({"x": [1, 1.0, -0.0, 0.1, 1e-7, 1e22]}, b'{"x":[1,1.0,-0.0,0.1,1e-07,1e+22]}'),
        ({"x": "ü€😀\n"}, b'{"x":"\\u00fc\\u20ac\\ud83d\\ude00\\n"}'),
        ({"x": 2**53}, b'{"x":9007199254740992}'),
    ],
    ids=["keys are sorted, no spaces", "floats are shortest", "text is ASCII", "large integers stay exact"],
)
def test_a_value_has_exactly_these_bytes(value, expected):
    assert encode(value) == expected
    assert decode(expected) == value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), "\ud800", {"\udfff": 1}, ["a\udc80b"]], ids=ascii
)
def test_what_json_cannot_say_is_not_encoded(value):
    with pytest.raises(ValueError):
        encode({"x": value})


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1} ',
        b' {"a":1}',
        b'{"a":1}\n',
        b"{}{}",
        b'{"a":1}\0',
        b'{"a":1',
        b"",
        b"[]",
        b"null",
        b'"a"',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        '{"a":"ü"}'.encode(),
        b'{"a":"\\u0041"}',
        b'{"a":"\\u00FC"}',
        b'{"a":"\\/"}',
        b'{"a":"\t"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud83d":1}',
        b'{"a":"\\\\\\ud800"}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":1.50}',
        b'{"a":1E5}',
        b'{"a":100000.00000000001e-5}',
        b'{"a":1.}',
        b'{"a":+1}',
        b'{"a":0x1}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: ascii(data.decode("latin-1"))[1:40],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(ArtifactError, match="somewhere: "):
        decode(data)


def test_the_text_of_an_escape_is_no_escape():
    """A backslash and "ud800" are six innocent characters."""
    assert decode(b'{"a":"\\\\ud800"}') == {"a": "\\ud800"}


@pytest.mark.parametrize("depth", [300, 900, 950, 990, 1000, 5000, 100_000])
def test_nesting_is_read_or_refused_and_never_a_crash(depth):
    try:
        value = decode(nested(depth))
    except ArtifactError:
        return
    assert depth < 1000
    assert encode(value) == nested(depth)


def test_too_much_input_is_refused_before_it_is_parsed():
    with pytest.raises(ArtifactError, match="9 bytes of JSON, at most 8 are read"):
        decode(b"not JSON!", max_bytes=8)
    assert decode(b'{"ab":1}', max_bytes=8) == {"ab": 1}


def test_a_message_does_not_repeat_what_a_stranger_wrote():
    with pytest.raises(ArtifactError) as caught:
        decode(b'{"a":' + b"\x1b[31m" * 10_000 + b"}")
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_equal_values_give_equal_bytes_in_every_process():
    script = (
        "from fedlpp_cli.canonical import encode\n"
        "names = {'rank', 'alpha', 'bits', 'block', 'scale', 'ü', ''}\n"
        "print(list(names), encode({name: {other: 0.1 for other in names} for name in names}))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout.split(" b'")
        for seed in ("0", "1", "2", "3")
    ]
    assert len({order for order, _ in outputs}) > 1, "the test shall see sets in different orders"
    assert len({encoded for _, encoded in outputs}) == 1
