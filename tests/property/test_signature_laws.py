"""Laws of signatures, on whatever hypothesis thinks of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.keys import signing_key

from fedlpp_cli.artifact.signatures import MAX_SIGNATURES, SIGNATURES, read_signatures, sign_manifest, signed_bytes
from fedlpp_cli.errors import SignatureError

KEYS = st.lists(st.integers(0, 255), min_size=1, max_size=MAX_SIGNATURES, unique=True)
# A place in the bytes, as a share of their length, and what to put there.
EDITS = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "drop", "insert", "cut"]),
    st.binary(min_size=1, max_size=3),
)


def edited(data, edit):
    where, how, new = edit
    at = int(where * len(data))
    match how:
        case "flip":
            return data[:at] + bytes([data[at] ^ (new[0] or 1)]) + data[at + 1 :]
        case "drop":
            return data[:at] + data[at + 1 :]
        case "insert":
            return data[:at] + new + data[at:]
        case _:
            return data[:at]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("package")


@given(manifest=st.binary(max_size=200), numbers=KEYS)
@settings(deadline=None, max_examples=50)
def test_whoever_signs_is_found_and_nobody_else(folder, manifest, numbers):
    keys = [signing_key(number) for number in numbers]
    (folder / SIGNATURES).write_bytes(sign_manifest(manifest, keys))
    found = read_signatures(folder, manifest)
    assert set(found) == {key.public for key in keys}
    assert len(found) == len(keys)


@given(manifest=st.binary(min_size=1, max_size=200), numbers=KEYS, edit=EDITS)
@settings(deadline=None, max_examples=150)
def test_no_change_of_either_file_goes_through(folder, manifest, numbers, edit):
    made = sign_manifest(manifest, [signing_key(number) for number in numbers])
    (folder / SIGNATURES).write_bytes(made)
    with pytest.raises(SignatureError):
        read_signatures(folder, edited(manifest, edit) if edited(manifest, edit) != manifest else manifest + b"\0")
    if edited(made, edit) != made:
        (folder / SIGNATURES).write_bytes(edited(made, edit))
        with pytest.raises(SignatureError):
            read_signatures(folder, manifest)


@given(one=st.binary(max_size=40), other=st.binary(max_size=40))
def test_what_is_signed_says_where_it_ends(one, other):
    """What is signed for one manifest is not the start of what is signed for another."""
    for another in (other, one + other):
        assert signed_bytes(another).startswith(signed_bytes(one)) == (one == another)
