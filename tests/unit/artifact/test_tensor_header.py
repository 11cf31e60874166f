"""The safetensors header: what lies just within the limits is read, and places are where they are said to be."""

import json

import pytest

from fedlpp_cli.artifact.tensor_header import MAX_RANK, MAX_TENSORS, METADATA_KEY, TensorInfo, build, parse, read_infos
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import MAX_HEADER_BYTES


def framed(header):
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    return len(raw).to_bytes(8, "little") + raw


def one(**changes):
    return {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], **changes}


def test_what_is_built_is_parsed():
    layout = {"b": ("U8", (3,)), "a": ("F32", (2, 2)), "c": ("BF16", ()), "d": ("F16", (1,))}
    prefix, infos = build(layout, ("fedlpp", '{"x":"y"}'))
    assert len(prefix) % 8 == 0
    first = len(prefix)
    assert infos == {
        "a": TensorInfo("a", "F32", (2, 2), first, first + 16),
        "c": TensorInfo("c", "BF16", (), first + 16, first + 18),
        "d": TensorInfo("d", "F16", (1,), first + 18, first + 20),
        "b": TensorInfo("b", "U8", (3,), first + 20, first + 23),
    }
    assert parse(prefix, first + 23, source="here") == ({METADATA_KEY: '{"x":"y"}'}, infos)


def test_more_bytes_than_the_header_may_be_given():
    prefix, infos = build({"a": ("U8", (3,))}, ("fedlpp", "{}"))
    assert parse(prefix + b"abc", len(prefix) + 3, source="here")[1] == infos


def test_as_many_tensors_as_the_limit_says_are_read_and_one_more_is_not():
    def tensors(number):
        return framed({f"t{n}": one(data_offsets=[n, n + 1]) for n in range(number)})

    full, over = tensors(MAX_TENSORS), tensors(MAX_TENSORS + 1)
    assert len(parse(full, len(full) + MAX_TENSORS, source="here")[1]) == MAX_TENSORS
    with pytest.raises(ArtifactError, match=f"{MAX_TENSORS + 1} tensors, at most {MAX_TENSORS}"):
        parse(over, len(over) + MAX_TENSORS + 1, source="here")


def test_a_header_as_long_as_the_limit_says_is_read_and_one_byte_more_is_not():
    text = json.dumps({"a": one()}).encode()
    full = framed(text.ljust(MAX_HEADER_BYTES))
    assert set(parse(full, len(full) + 1, source="here")[1]) == {"a"}
    over = framed(text.ljust(MAX_HEADER_BYTES + 1))
    with pytest.raises(ArtifactError, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        parse(over, len(over) + 1, source="here")


@pytest.mark.parametrize(
    ("name", "entry", "n_bytes"),
    [
        ("a", one(shape=[1] * MAX_RANK), 1),
        ("a", one(shape=[]), 1),
        ("a", one(shape=[2**40 - 1], data_offsets=[0, 2**40 - 1]), 2**40 - 1),
        ("a", one(dtype="F32", shape=[3, 5], data_offsets=[0, 60]), 60),
        ("a" * 320, one(), 1),
        ("-a.0.B_c", one(), 1),
    ],
    ids=["rank", "scalar", "dimension", "dtype", "long name", "letters"],
)
def test_what_lies_just_within_the_limits_is_read(name, entry, n_bytes):
    prefix = framed({name: entry})
    metadata, infos = parse(prefix, len(prefix) + n_bytes, source="here")
    assert metadata is None
    assert (infos[name].shape, infos[name].n_bytes) == (tuple(entry["shape"]), n_bytes)


def test_a_name_one_letter_too_long_is_refused():
    prefix = framed({"a" * 321: one()})
    with pytest.raises(ArtifactError, match="tensor name"):
        parse(prefix, len(prefix) + 1, source="here")


def test_a_file_of_other_software_is_read_too(tmp_path):
    (tmp_path / "a").write_bytes(framed({"__metadata__": {"format": "pt", "x": "ü"}, "a": one()}) + b"\0")
    assert set(read_infos(tmp_path / "a")) == {"a"}
