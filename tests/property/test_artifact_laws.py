"""Laws of the formats, on whatever hypothesis thinks of."""

import copy
import json
import re

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedlpp_cli import canonical
from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.artifact.tensor_header import DTYPE_BYTES, read_infos
from fedlpp_cli.errors import ArtifactError, FedlppError, UsageError
from fedlpp_cli.records.headers import Header, UpdateHeader, UpdateSpec, decode_header, encode_header
from fedlpp_cli.records.specs import TrainMetrics
from fedlpp_cli.refs import HubRef, parse_ref

TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}
METRICS = TrainMetrics(n_examples=1, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
HEADER = UpdateHeader(
    federation="0" * 64, round=3, parents={"package": ("1" * 64,)}, spec=UpdateSpec(client="a", metrics=METRICS)
)
ARTIFACT = encode_header(HEADER)
METADATA = {"fedlpp": ARTIFACT.decode()}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=12,
)
LAYOUTS = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(1, 4), max_size=3).map(tuple)),
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of a law."""
    return tmp_path_factory.mktemp("laws")


def attempt(call, *arguments, **options):
    """What a call gives, or the error of ours that it ends in. Any other error is a failure of the law."""
    try:
        return call(*arguments, **options), None
    except FedlppError as error:
        return None, error


def decode(data):
    return canonical.decode_object(data, source="here", max_bytes=2**20)


@given(JSON)
def test_canonical_json_reads_back_and_is_written_the_same_again(value):
    data = canonical.encode({"x": value})
    found = decode(data)
    assert found == {"x": value}
    assert canonical.encode(found) == data


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_the_order_of_keys_does_not_show(value):
    assert canonical.encode(value) == canonical.encode(dict(reversed(value.items())))


@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=3), st.data())
def test_no_two_byte_strings_are_the_same_canonical_json(value, data):
    """What json reads as equal but was spelt otherwise is refused."""
    spelt = json.dumps(
        value,
        indent=data.draw(st.sampled_from([None, 0, 1])),
        ensure_ascii=data.draw(st.booleans()),
        separators=data.draw(st.sampled_from([(",", ":"), (", ", ":"), (",", ": ")])),
    ).encode()
    if spelt == canonical.encode(value):
        assert decode(spelt) == value
    else:
        with pytest.raises(ArtifactError):
            decode(spelt)


@given(st.binary(max_size=30) | st.text(max_size=20).map(lambda text: b'{"a":' + text.encode(errors="ignore") + b"}"))
def test_bytes_either_are_canonical_json_or_are_refused(data):
    found, refusal = attempt(decode, data)
    assert refusal is not None or canonical.encode(found) == data


def places(value, path=()):
    """The path of everything in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


def put(value, path, new):
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


NEAR = st.sampled_from([0, -1, 2**53, 2**53 + 1, 2**63, 1.0, True, None, "", "a", "A", "1.0", "1.1", "2.0", [], {}])


@given(st.data())
@settings(max_examples=300)
def test_a_header_with_anything_anywhere_is_read_as_it_stands_or_refused(data):
    plain = json.loads(ARTIFACT)
    plain["format"] = data.draw(st.sampled_from(["1.1", "1.1", "1.2"]))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(plain))))
        new = data.draw(NEAR | JSON)
        plain = put(plain, path, new)
        if isinstance(plain, dict) and data.draw(st.booleans()):
            plain = {**plain, data.draw(TEXT): new}
    assume(isinstance(plain, dict))
    found, refusal = attempt(decode_header, canonical.encode(plain), source="here")
    if refusal is not None:
        assert str(refusal).startswith("here: ")
        return
    assert decode_header(encode_header(found), source="here") == found
    if found.format == "1.1":
        assert set(plain) <= set(json.loads(encode_header(found)))


@given(LAYOUTS, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_writer_writes_what_the_safetensors_library_writes(folder, layout, random):
    tensors = {
        name: torch.tensor([random.randrange(256) for _ in range(4**3 * 4)], dtype=torch.uint8)[
            : torch.Size(shape).numel() * DTYPE_BYTES[dtype]
        ]
        .view(TORCH_DTYPES[dtype])
        .reshape(shape)
        for name, (dtype, shape) in layout.items()
    }
    order = list(tensors)
    random.shuffle(order)
    with write_tensors(folder / "ours", HEADER, layout, force=True) as out:
        for name in order:
            out.write(name, tensors[name])
    save_file(tensors, folder / "theirs", metadata=METADATA)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    with TensorFile(folder / "ours", UpdateHeader) as file:
        assert file.header == HEADER
        for name, tensor in tensors.items():
            found = file.read(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def good_text(metadata=METADATA):
    tensors = {
        "a.codes": {"dtype": "U8", "shape": [5], "data_offsets": [12, 17]},
        "b": {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 12]},
        "c": {"dtype": "BF16", "shape": [], "data_offsets": [17, 19]},
    }
    return json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()


BODY = bytes(range(19))
TOKENS = [
    *(b"0", b"1", b"-", b"-0", b"9" * 20, b".0", b"e0", b"true", b"null", b'"', b'""', b"\\", b"\\u0000", b"\\ud800"),
    *(b"{", b"}", b"[", b"]", b"{}", b"[]", b",", b":", b" ", b"\n", b"\0", b"\xff", b"\x1b", "ü".encode(), b"[" * 200),
    *(b'"b":', b'"x":1,', b'"shape":[1],', b'"__metadata__":{},', b'"__metadata__":null,', b'"F64"', b'"I64"', b"[0]"),
]


@st.composite
def mutations(draw, data):
    """The bytes with a few changes: a flipped bit, bytes put in, left out, doubled or cut off."""
    inserts = st.binary(min_size=1, max_size=4)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), at + draw(st.integers(1, 9)))
        match draw(st.sampled_from(["flip", "insert", "replace", "delete", "double", "cut"])):
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(inserts) + data[at:]
            case "replace":
                data = data[:at] + draw(inserts) + data[at + 1 :]
            case "delete":
                data = data[:at] + data[end:]
            case "double":
                data = data[:end] + data[at:]
            case _:
                data = data[:at]
    return data


def framed(text, body=BODY):
    return len(text).to_bytes(8, "little") + text + body


def theirs(path):
    """Name to (dtype, shape) as safetensors reads it, None where it refuses."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError:
        return None


def check_against_theirs(path):
    """Where we read, they read, and the same; where we do not, it is by an error of ours."""
    infos, refusal = attempt(read_infos, path)
    if refusal is not None:
        assert str(refusal).isprintable()
        assert len(str(refusal)) < 1000
    else:
        assert theirs(path) == {name: (info.dtype, info.shape) for name, info in infos.items()}
        content = path.read_bytes()
        with safe_open(path, framework="pt") as file:
            for name, info in infos.items():
                bits = file.get_tensor(name).reshape(-1).view(torch.uint8)
                assert bytes(bits.tolist()) == content[info.start : info.stop]
    for opener in (lambda path: TensorFile(path, Header), open_any):
        opened, _ = attempt(opener, path)
        if opened is not None:
            with opened:
                assert refusal is None
                for name in opened.tensors:
                    opened.read(name)


def test_the_file_that_is_mutated_is_good(folder):
    (folder / "good").write_bytes(framed(good_text()))
    assert theirs(folder / "good") == {"a.codes": ("U8", (5,)), "b": ("F32", (3, 1)), "c": ("BF16", ())}
    with TensorFile(folder / "good", UpdateHeader) as file:
        assert set(file.tensors) == {"a.codes", "b", "c"}


@given(mutations(framed(good_text())))
@settings(max_examples=400)
def test_mutated_bytes_are_read_as_safetensors_reads_them_or_refused(folder, data):
    (folder / "mutated").write_bytes(data)
    check_against_theirs(folder / "mutated")


@st.composite
def respellings(draw, text):
    """JSON text with a few of its tokens changed: the frame stays sound, so that the change reaches the parser."""
    tokens = re.findall(rb'"(?:\\.|[^"\\])*"|[0-9]+|.', text)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(tokens) - 1))
        match draw(st.sampled_from(["prefix", "suffix", "insert", "replace", "delete", "swap"])):
            case "prefix":
                tokens[at] = draw(st.sampled_from([b"-", b" ", b"0", b"["])) + tokens[at]
            case "suffix":
                tokens[at] += draw(st.sampled_from([b".0", b"e0", b" ", b"0", b"]"]))
            case "insert":
                tokens.insert(at, draw(st.sampled_from(TOKENS)))
            case "replace":
                tokens[at] = draw(st.sampled_from(TOKENS))
            case "delete":
                tokens[at] = b""
            case _:
                other = draw(st.integers(0, len(tokens) - 1))
                tokens[at], tokens[other] = tokens[other], tokens[at]
    return b"".join(tokens)


@given(respellings(good_text()))
@example(good_text().replace(b"[0,12]", b"[-0,12]"))
@example(good_text([]))
@example(good_text({"fedlpp": 1}))
@example(good_text({"fedlpp": "\ud800"}))
@settings(max_examples=800)
def test_a_mutated_header_is_read_as_safetensors_reads_it_or_refused(folder, text):
    (folder / "mutated").write_bytes(framed(text))
    check_against_theirs(folder / "mutated")


FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "U8", "F16", "F32", "I8", "BOOL", 8, None]),
        "shape": st.lists(st.integers(1, 3) | st.sampled_from([0, -1, 2**62, True, 1.0, None]), max_size=3),
        "data_offsets": st.tuples(st.integers(0, 9), st.integers(0, 9)).map(list) | JSON,
    },
    optional={"x": JSON},
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "", "../a"]), FIELDS, max_size=3), st.data())
@settings(max_examples=300)
def test_tensors_anywhere_are_read_as_safetensors_reads_them_or_refused(folder, entries, data):
    if data.draw(st.booleans()):
        start = 0
        for entry in entries.values():
            size = data.draw(st.integers(0, 6))
            entry["data_offsets"], start = [start, start + size], start + size
        body = bytes(start)
    else:
        body = bytes(data.draw(st.integers(0, 12)))
    text = json.dumps({"__metadata__": METADATA, **entries}).encode()
    (folder / "mutated").write_bytes(framed(text, body))
    check_against_theirs(folder / "mutated")


TYPES = {"models", "model", "datasets", "dataset", "spaces", "space", "buckets", "bucket", "kernels", "kernel"}
NAMES = st.from_regex(r"[A-Za-z0-9]{1,8}", fullmatch=True).filter(lambda name: name not in TYPES)
REVISIONS = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
COMPONENTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=8).filter(
    lambda text: "/" not in text and not text.startswith(".")
)


@given(st.sampled_from(["model", "dataset"]), NAMES, NAMES, REVISIONS, st.lists(COMPONENTS, max_size=3))
def test_a_place_on_the_hub_is_printed_as_an_address_that_means_it(repo_type, owner, name, revision, components):
    ref = HubRef(repo_type, f"{owner}/{name}", revision, "/".join(components))
    assert parse_ref(str(ref)) == ref


@given(st.text(max_size=30) | st.text(st.sampled_from("ab/@.:%2Fdatasets"), max_size=30).map("hf://".__add__))
def test_any_text_is_a_reference_or_a_usage_error(text):
    found, refusal = attempt(parse_ref, text)
    assert refusal is None or isinstance(refusal, UsageError)
    if isinstance(found, HubRef):
        assert not any(part in {"", ".", ".."} for part in found.path.split("/") if found.path)
        assert parse_ref(str(found)) == found
