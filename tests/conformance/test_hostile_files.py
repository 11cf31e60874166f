"""One attack a line on whoever opens a tensor file from a stranger: each is refused, cheaply, in one clean sentence."""

import json
import os
import stat
import tracemalloc
from collections.abc import Callable

import pytest

from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.artifact.tensor_header import read_infos
from fedlpp_cli.errors import ArtifactError, InputError
from fedlpp_cli.records.headers import Header, UpdateHeader, UpdateSpec, encode_header
from fedlpp_cli.records.specs import TrainMetrics

MIB = 2**20
METRICS = TrainMetrics(n_examples=1, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
ARTIFACT = encode_header(
    UpdateHeader(federation="0" * 64, round=0, parents={}, spec=UpdateSpec(client="a", metrics=METRICS))
).decode()
METADATA = {"fedlpp": ARTIFACT}
A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}
GOOD = {"__metadata__": METADATA, "a": A, "b": B}
BODY = bytes(12)


def framed(text: str | bytes, body: bytes = BODY) -> bytes:
    """A file with that header text."""
    raw = text if isinstance(text, bytes) else text.encode()
    return len(raw).to_bytes(8, "little") + raw + body


def file(header: dict, body: bytes = BODY) -> bytes:
    return framed(json.dumps(header), body)


def with_a(**changes) -> bytes:
    """The good file with another description of its first tensor."""
    return file({**GOOD, "a": {**A, **changes}})


def with_empty(shape: list[int]) -> bytes:
    """The good file with one more tensor, which takes no bytes."""
    return file({"c": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}, **GOOD})


def moved(start_a: int, start_b: int) -> bytes:
    """The good file with its tensors at other places, and as many bytes as they reach to."""
    a, b = {**A, "data_offsets": [start_a, start_a + 8]}, {**B, "data_offsets": [start_b, start_b + 4]}
    return file({**GOOD, "a": a, "b": b}, bytes(start_b + 4))


def renamed(name: str) -> bytes:
    return file({"__metadata__": METADATA, name: A, "b": B})


def spelt(old: str, new: str) -> bytes:
    """The good file with a piece of its header text spelt in another way."""
    text = json.dumps(GOOD)
    assert text.count(old) == 1
    return framed(text.replace(old, new))


def with_length(n_header: int) -> bytes:
    return n_header.to_bytes(8, "little") + file(GOOD)[8:]


def many(n_tensors: int) -> bytes:
    entries = {f"t{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(n_tensors)}
    return file({"__metadata__": METADATA, **entries}, bytes(n_tensors))


ATTACKS: dict[str, Callable[[], bytes]] = {
    # The frame
    "empty": lambda: b"",
    "seven bytes": lambda: bytes(7),
    "eight zero bytes": lambda: bytes(8),
    "only zero bytes": lambda: bytes(4096),
    "a pickle": lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
    "a zip": lambda: b"PK\x03\x04" + bytes(60),
    "truncated by one byte": lambda: file(GOOD)[:-1],
    "truncated inside the header": lambda: file(GOOD)[:100],
    "a byte after the end": lambda: file(GOOD) + b"\0",
    "a megabyte after the end": lambda: file(GOOD) + bytes(MIB),
    "header length 0": lambda: with_length(0),
    "header length one too small": lambda: with_length(len(json.dumps(GOOD)) - 1),
    "header length one too large": lambda: with_length(len(json.dumps(GOOD)) + 1),
    "header longer than the file": lambda: with_length(len(file(GOOD))),
    "header length 2^31": lambda: with_length(2**31),
    "header length 2^63": lambda: with_length(2**63),
    "header length 2^64 - 1": lambda: with_length(2**64 - 1),
    "header length that wraps around": lambda: with_length(2**64 - 8),
    # The text
    "no header text": lambda: framed(b"", b""),
    "spaces in front": lambda: framed("  " + json.dumps(GOOD)),
    "newline in front": lambda: framed("\n" + json.dumps(GOOD)),
    "byte order mark in front": lambda: framed("\ufeff" + json.dumps(GOOD)),
    "NUL at the end of the text": lambda: framed(json.dumps(GOOD) + "\0"),
    "comma after the text": lambda: framed(json.dumps(GOOD) + ","),
    "two headers": lambda: framed(json.dumps(GOOD) + json.dumps(GOOD)),
    "a list": lambda: framed(json.dumps([GOOD])),
    "null": lambda: framed("null"),
    "not UTF-8": lambda: framed(json.dumps(GOOD).encode().replace(b'"a"', b'"\xff"')),
    "UTF-16": lambda: framed(json.dumps(GOOD).encode("utf-16-le")),
    "overlong UTF-8": lambda: framed(json.dumps(GOOD).encode().replace(b'"a"', b'"\xc1\xa1"')),
    "a comment": lambda: framed("{/**/" + json.dumps(GOOD)[1:]),
    "a trailing comma": lambda: framed(json.dumps(GOOD)[:-1] + ",}"),
    "deep lists": lambda: framed('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", b""),
    "deep objects": lambda: framed('{"a":' * 100_000 + "1" + "}" * 100_000, b""),
    "deep lists in the metadata": lambda: file({"__metadata__": 0}).replace(b"0}", b"[" * 2000 + b"]" * 2000 + b"}"),
    "control character in a string": lambda: spelt('"a"', '"a\t"'),
    # Names
    "a tensor twice, same place": lambda: framed(json.dumps(GOOD)[:-1] + f', "a": {json.dumps(A)}}}'),
    "a tensor twice, other place": lambda: framed(json.dumps(GOOD)[:-1] + f', "b": {json.dumps(A)}}}'),
    "a tensor twice, spelt in two ways": lambda: framed(json.dumps(GOOD)[:-1] + f', "\\u0061": {json.dumps(A)}}}'),
    "metadata twice": lambda: framed(f'{{"__metadata__": {json.dumps(METADATA)}, ' + json.dumps(GOOD)[1:]),
    "a field twice in a tensor": lambda: spelt('"shape": [2]', '"shape": [2], "shape": [2]'),
    "empty name": lambda: renamed(""),
    "a path": lambda: renamed("../../etc/passwd"),
    "an absolute path": lambda: renamed("/etc/passwd"),
    "a dot": lambda: renamed("."),
    "two dots": lambda: renamed(".."),
    "a hidden file": lambda: renamed(".ssh"),
    "a Windows path": lambda: renamed("C:\\a"),
    "NUL in a name": lambda: renamed("a\0b"),
    "terminal escape in a name": lambda: renamed("\x1b]0;owned\x07\x1b[31m"),
    "newline in a name": lambda: renamed("a\nfedlpp: all is well"),
    "newline after a name": lambda: renamed("a\n"),
    "text direction in a name": lambda: renamed("a\u202eb"),
    "half a surrogate pair in a name": lambda: renamed("\ud800"),
    "a look-alike letter": lambda: renamed("\u0430"),
    "a full-width digit": lambda: renamed("\uff11"),
    "a name of 100,000 letters": lambda: renamed("a" * 100_000),
    "a name of 100,000 terminal escapes": lambda: renamed("\x1b[31m" * 100_000),
    # Tensors
    "no fields": lambda: file({**GOOD, "a": {}}),
    "a list for a tensor": lambda: file({**GOOD, "a": [A]}),
    "null for a tensor": lambda: file({**GOOD, "a": None}),
    "a number for a tensor": lambda: file({**GOOD, "a": 8}),
    "unknown field in a tensor": lambda: with_a(note="a place to hide things"),
    "missing shape": lambda: file({**GOOD, "a": {key: A[key] for key in ("dtype", "data_offsets")}}),
    "missing offsets": lambda: file({**GOOD, "a": {key: A[key] for key in ("dtype", "shape")}}),
    "unknown dtype": lambda: with_a(dtype="F31"),
    "dtype we never write": lambda: with_a(dtype="F64", shape=[1]),
    "lower-case dtype": lambda: with_a(dtype="f32"),
    "dtype null": lambda: with_a(dtype=None),
    "dtype a list": lambda: with_a(dtype=["F32"]),
    "dtype an object": lambda: with_a(dtype={"F32": 1}),
    "dtype of 100,000 letters": lambda: with_a(dtype="\x1b[31m" * 100_000),
    "shape a number": lambda: with_a(shape=2),
    "shape null": lambda: with_a(shape=None),
    "shape an object": lambda: with_a(shape={"0": 2}),
    "negative dimension": lambda: with_a(shape=[-2]),
    "two negative dimensions": lambda: with_a(shape=[-1, -2]),
    "minus zero dimension": lambda: spelt('"shape": [2]', '"shape": [-0]'),
    "float dimension": lambda: with_a(shape=[2.0]),
    "exponent in a dimension": lambda: spelt('"shape": [2]', '"shape": [2e0]'),
    "endless dimension": lambda: spelt('"shape": [2]', '"shape": [1e999]'),
    "NaN dimension": lambda: spelt('"shape": [2]', '"shape": [NaN]'),
    "infinite dimension": lambda: spelt('"shape": [2]', '"shape": [Infinity]'),
    "boolean dimension": lambda: with_a(shape=[2, True]),
    "text dimension": lambda: with_a(shape=["2"]),
    "null dimension": lambda: with_a(shape=[2, None]),
    "nested dimension": lambda: with_a(shape=[[2]]),
    "zero dimension": lambda: with_empty(shape=[0]),
    "zero beside a huge dimension": lambda: with_empty(shape=[0, 2**39]),
    "rank 9": lambda: with_a(shape=[2, 1, 1, 1, 1, 1, 1, 1, 1]),
    "rank 10,000": lambda: with_a(shape=[2] + [1] * 10_000),
    "dimension 2^40": lambda: with_a(shape=[2**40]),
    "shape product 2^64, which wraps around to 0": lambda: with_empty(shape=[2**32, 2**32]),
    "shape product 2^64 + 2, which wraps around to 2": lambda: with_a(shape=[77158673929, 239075442]),
    "dimension of 4,000 digits": lambda: spelt('"shape": [2]', f'"shape": [{"9" * 4000}]'),
    "dimension of 100,000 digits": lambda: spelt('"shape": [2]', f'"shape": [{"9" * 100_000}]'),
    "float of 100,000 digits": lambda: spelt('"shape": [2]', f'"shape": [2.{"0" * 100_000}]'),
    "shape larger than its bytes": lambda: with_a(shape=[3]),
    "shape smaller than its bytes": lambda: with_a(shape=[1]),
    # Places
    "one offset": lambda: with_a(data_offsets=[8]),
    "three offsets": lambda: with_a(data_offsets=[0, 8, 8]),
    "offsets null": lambda: with_a(data_offsets=None),
    "negative offset": lambda: with_a(data_offsets=[-8, 0]),
    "minus zero offset": lambda: spelt('"data_offsets": [0, 8]', '"data_offsets": [-0, 8]'),
    "float offset": lambda: with_a(data_offsets=[0.0, 8]),
    "boolean offset": lambda: with_a(data_offsets=[False, 8]),
    "offsets backwards": lambda: with_a(data_offsets=[8, 0]),
    "offset beyond the end": lambda: with_a(data_offsets=[100, 108]),
    "offset 2^63": lambda: with_a(data_offsets=[2**63, 2**63 + 8]),
    "offset 2^64 wraps around": lambda: with_a(data_offsets=[2**64, 2**64 + 8]),
    "hole at the start": lambda: moved(1, 9),
    "hole in the middle": lambda: moved(0, 9),
    "hole at the end": lambda: file(GOOD, bytes(13)),
    "overlap": lambda: moved(0, 7),
    "two tensors in one place": lambda: file({**GOOD, "c": A}),
    "no tensors but bytes": lambda: file({"__metadata__": METADATA}),
    # Sizes
    "30,000 tensors": lambda: many(30_000),
}  # fmt: skip

# Sound for safetensors, but no artifact of ours.
NO_ARTIFACTS: dict[str, Callable[[], bytes]] = {
    "no metadata": lambda: file({"a": A, "b": B}),
    "metadata null": lambda: file({**GOOD, "__metadata__": None}),
    "empty metadata": lambda: file({**GOOD, "__metadata__": {}}),
    "another metadata key": lambda: file({**GOOD, "__metadata__": {"format": "pt"}}),
    "a second metadata key": lambda: file({**GOOD, "__metadata__": {**METADATA, "format": "pt"}}),
    "empty artifact header": lambda: file({**GOOD, "__metadata__": {"fedlpp": ""}}),
    "artifact header not JSON": lambda: file({**GOOD, "__metadata__": {"fedlpp": "hello"}}),
    "artifact header with a space": lambda: file({**GOOD, "__metadata__": {"fedlpp": ARTIFACT + " "}}),
    "artifact header with a key twice": lambda: file(
        {**GOOD, "__metadata__": {"fedlpp": ARTIFACT.replace('"round":0', '"round":0,"round":0')}}
    ),
    "artifact header with a raw letter": lambda: file({**GOOD, "__metadata__": {"fedlpp": ARTIFACT.replace("a", "ä")}}),
    "artifact header with NaN": lambda: file(
        {**GOOD, "__metadata__": {"fedlpp": ARTIFACT.replace('"loss_last":0.5', '"loss_last":NaN')}}
    ),
    "artifact header of a later major version": lambda: file(
        {**GOOD, "__metadata__": {"fedlpp": ARTIFACT.replace('"1.1"', '"2.0"')}}
    ),
    "an unknown field in the artifact header": lambda: file(
        {**GOOD, "__metadata__": {"fedlpp": ARTIFACT.replace('"round":0', '"round":0,"round2":0')}}
    ),
    "deep nesting in the artifact header": lambda: file(
        {**GOOD, "__metadata__": {"fedlpp": '{"format":"1.9","kind":"update","x":' + "[" * 50_000 + "]" * 50_000 + "}"}}
    ),
}

# Not even that: safetensors wants text for text.
BAD_METADATA: dict[str, Callable[[], bytes]] = {
    "a metadata key twice": lambda: spelt('{"fedlpp"', f'{{"fedlpp": {json.dumps(ARTIFACT)}, "fedlpp"'),
    "metadata a list": lambda: file({**GOOD, "__metadata__": [METADATA]}),
    "metadata a text": lambda: file({**GOOD, "__metadata__": ARTIFACT}),
    "metadata a number": lambda: file({**GOOD, "__metadata__": 1}),
    "artifact header an object": lambda: file({**GOOD, "__metadata__": {"fedlpp": json.loads(ARTIFACT)}}),
    "artifact header a number": lambda: file({**GOOD, "__metadata__": {"fedlpp": 1}}),
    "artifact header null": lambda: file({**GOOD, "__metadata__": {"fedlpp": None}}),
    "artifact header half a surrogate pair": lambda: spelt('"fedlpp": "', '"fedlpp": "\\ud800'),
}


def as_artifact(path):
    return TensorFile(path, Header)


def peak_of(call) -> int:
    """Bytes of Python's own that a call needs at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_refused(path, *openers, limit=64 * MIB):
    """By every way in, in one clean sentence, within some memory."""

    def refused(opener):
        with pytest.raises((ArtifactError, InputError)) as caught:
            opener(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: ")
        assert said.isprintable()
        assert len(said) < len(str(path)) + 500

    first, *others = openers
    assert peak_of(lambda: refused(first)) < limit
    for opener in others:
        refused(opener)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stranger.safetensors"


def test_the_file_that_all_attacks_are_made_from_is_good(path):
    path.write_bytes(file(GOOD))
    assert set(read_infos(path)) == {"a", "b"}
    with as_artifact(path) as opened:
        assert opened.header.kind == "update"


@pytest.mark.parametrize("attack", {**ATTACKS, **BAD_METADATA})
def test_a_file_that_is_not_exactly_the_format_is_refused(attack, path):
    path.write_bytes({**ATTACKS, **BAD_METADATA}[attack]())
    check_refused(path, as_artifact, open_any, read_infos)


@pytest.mark.parametrize("attack", NO_ARTIFACTS)
def test_a_tensor_file_that_is_no_artifact_is_refused_as_one(attack, path):
    path.write_bytes(NO_ARTIFACTS[attack]())
    check_refused(path, as_artifact, open_any)
    assert set(read_infos(path)) == {"a", "b"}


@pytest.mark.parametrize("name", ["package", "base", "report"])
def test_a_tensor_file_that_says_it_is_another_kind_of_thing_is_refused(name, path):
    specs = {
        "package": {"client": None, "train": {"steps": 1}},
        "base": {"quantize": {}, "model_type": "llama", "unquantized": {}},
        "report": {
            "about": "evaluate", "task": {}, "data": "0" * 64, "n_examples": 0, "n_cut": 0,
            "generation": {}, "rows": [],
        },
    }  # fmt: skip
    header = {**json.loads(ARTIFACT), "kind": name, "spec": specs[name]}
    if name != "report":
        header["files"] = []
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    path.write_bytes(file({**GOOD, "__metadata__": {"fedlpp": text}}))
    check_refused(path, as_artifact, open_any)


def test_a_header_of_90_megabytes_is_refused_before_it_is_read(path):
    with path.open("wb") as stream:
        before, after = json.dumps({**GOOD, "__metadata__": {"fedlpp": "@"}}).encode().split(b"@")
        stream.write((len(before) + 90 * MIB + len(after)).to_bytes(8, "little") + before)
        for _ in range(90):
            stream.write(b"a" * MIB)
        stream.write(after + BODY)
    check_refused(path, as_artifact, open_any, read_infos, limit=MIB)


def test_a_file_of_a_terabyte_costs_nothing_to_refuse(path):
    path.write_bytes(file(GOOD))
    os.truncate(path, 2**40)
    check_refused(path, as_artifact, open_any, read_infos, limit=MIB)


def test_a_link_to_a_good_file_is_followed(path, tmp_path):
    """A tensor file stands for its bytes, wherever they lie: the Hub's own cache is made of links."""
    (tmp_path / "elsewhere").write_bytes(file(GOOD))
    path.symlink_to("elsewhere")
    with as_artifact(path) as opened:
        assert opened.header.kind == "update"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/stdin"),
        lambda path: path.symlink_to("/proc/self/mem"),
    ],
    ids=["missing", "dangling link", "link to itself", "folder", "pipe", "endless device", "terminal", "memory"],
)
@pytest.mark.timeout(30)
def test_what_is_no_regular_file_is_refused_without_waiting(make, path):
    make(path)
    check_refused(path, as_artifact, open_any, read_infos, limit=MIB)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    for name in ("a" * 300, "/".join(["a" * 200] * 30)):
        for opener in (as_artifact, open_any, read_infos):
            with pytest.raises(InputError):
                opener(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(path):
    path.write_bytes(file(GOOD))
    path.chmod(0)
    assert stat.S_IMODE(path.stat().st_mode) == 0
    check_refused(path, as_artifact, open_any, read_infos)
