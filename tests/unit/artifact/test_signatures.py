"""Signed packages: what is signed, and every way in which a signature can be no good."""

import base64
import json
import os
import shutil
import subprocess

import pytest
from support.keys import private_key, sign_copy, signing_key

from fedlpp_cli import canonical
from fedlpp_cli.artifact.folder import MANIFEST, open_folder, write_folder
from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.signatures import (
    MAX_BYTES,
    MAX_SIGNATURES,
    PACKAGE,
    SIGNATURES,
    check_signers,
    sign_manifest,
    signed_bytes,
)
from fedlpp_cli.errors import ArtifactError, DigestError, InputError, SignatureError, SignerError
from fedlpp_cli.records.headers import BaseArtifactSpec, BaseHeader, PackageHeader, PackageSpec
from fedlpp_cli.records.specs import BaseQuantSpec, TrainSpec

CONTENTS = {"proxy.safetensors": b"proxy bytes", "README.md": b"card bytes", "base/config.json": b"{}"}
LINEAGE = {"federation": "0" * 64, "round": 2, "parents": {"proxy": ("1" * 64,)}}
OWNER, OTHER = signing_key(1), signing_key(2)
SCHEME = PACKAGE.name


def package_header(files):
    return PackageHeader(**LINEAGE, spec=PackageSpec(client=None, train=TrainSpec(steps=1)), files=files)


@pytest.fixture
def package(tmp_path):
    """A signed package."""
    write_folder(tmp_path / "package", CONTENTS, package_header, sign=[OWNER])
    return tmp_path / "package"


def resign(package, **fields):
    """Another signature file, which is canonical too."""
    (package / SIGNATURES).write_bytes(canonical.encode({"scheme": SCHEME} | fields))


def entry(key, message):
    value = base64.b64encode(key.sign(message)).decode()
    return {"key": key.public.text, "value": value}


def check_refused(package, error=SignatureError, match=None, signers=()):
    """By both ways in."""
    for opener in (
        lambda path: open_folder(path, PackageHeader, signers=signers),
        lambda path: open_any(path, signers=signers),
    ):
        with pytest.raises(error, match=match) as caught:
            opener(package)
        assert str(package) in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_signed_package_opens_and_says_who_signed(package, tmp_path):
    opened = open_folder(package, PackageHeader, signers=[OWNER.public, OTHER.public])
    assert opened.signed_by == open_any(package).signed_by == (OWNER.public,)
    plain = write_folder(tmp_path / "plain", CONTENTS, package_header)
    assert opened.sha256 == plain
    assert open_folder(tmp_path / "plain", PackageHeader).signed_by == ()
    shutil.rmtree(tmp_path / "plain")
    assert (package / MANIFEST).stat().st_mode == (package / SIGNATURES).stat().st_mode


def test_the_file_is_canonical_and_the_same_every_time(package):
    """A known answer: what was signed once is good for ever."""
    raw = (package / SIGNATURES).read_bytes()
    assert raw == sign_manifest((package / MANIFEST).read_bytes(), [signing_key(1)])
    assert sign_manifest(b"{}", [OWNER]) == (
        b'{"scheme":"fedlpp package v1","signatures":[{"key":"ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",'
        b'"value":"HzsnKPQ5sXo5f7IHoUJ2odZ0O0DL+obmoE+zWXc9Ch7xXILFov3xnENq9wRrzZ2hqD8irYXxYwgS6qq9jOcABQ=="}]}'
    )


def test_what_is_signed_is_scheme_length_and_manifest():
    assert signed_bytes(b"{}") == b"fedlpp package v1\0\0\0\0\0\0\0\0\2{}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_what_the_format_says_is_enough_to_check_a_package_with_openssl(package, tmp_path):
    [found] = json.loads((package / SIGNATURES).read_bytes())["signatures"]
    manifest = (package / MANIFEST).read_bytes()
    # RFC 8410: the public key behind a fixed start.
    raw = base64.b64decode(found["key"].removeprefix("ed25519:"))
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)
    (tmp_path / "value").write_bytes(base64.b64decode(found["value"]))
    check = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", tmp_path / "key.der"]
    for end, code in ((b"", 0), (b" ", 1)):
        length = (len(manifest) + len(end)).to_bytes(8, "big")
        (tmp_path / "message").write_bytes(b"fedlpp package v1\0" + length + manifest + end)
        call = [*check, "-sigfile", tmp_path / "value", "-in", tmp_path / "message"]
        assert subprocess.run(call, capture_output=True, check=False).returncode == code


def test_several_keys_sign_in_one_order_and_any_of_them_will_do(tmp_path, package):
    keys = [signing_key(number) for number in range(1, 6)]
    raw = (package / MANIFEST).read_bytes()
    assert sign_manifest(raw, keys) == sign_manifest(raw, keys[::-1])
    both = sign_copy(package, tmp_path / "both", keys)
    assert set(open_folder(both, PackageHeader).signed_by) == {key.public for key in keys}
    for key in keys:
        open_folder(both, PackageHeader, signers=[key.public])
    check_refused(both, SignerError, "signed by", signers=[signing_key(9).public])


def test_as_many_signatures_as_may_be_fit_into_the_file(package):
    keys = [signing_key(number) for number in range(MAX_SIGNATURES + 1)]
    raw = (package / MANIFEST).read_bytes()
    made = sign_manifest(raw, keys[:-1])
    assert len(made) < MAX_BYTES
    (package / SIGNATURES).write_bytes(made)
    assert len(open_folder(package, PackageHeader).signed_by) == MAX_SIGNATURES
    (package / SIGNATURES).write_bytes(sign_manifest(raw, keys))
    check_refused(package)


def test_a_package_without_the_signature_that_is_asked_for_is_refused(package):
    check_refused(
        package, SignerError, "signed by 34750f98bd59…; a signature of clinic", [signing_key(2, "clinic").public]
    )
    (package / SIGNATURES).unlink()
    check_refused(package, SignerError, "not signed; a signature of 34750f98bd59… is needed", [OWNER.public])
    assert open_folder(package, PackageHeader).signed_by == ()


def test_who_signed_is_asked_before_the_manifest_is_parsed(package):
    (package / MANIFEST).write_bytes(b"not even JSON")
    check_refused(package, SignatureError, "does not fit")
    (package / SIGNATURES).unlink()
    with pytest.raises(SignerError):
        open_folder(package, PackageHeader, signers=[OWNER.public])


@pytest.mark.parametrize("at", range(0, 700, 31))
def test_a_flipped_bit_in_the_manifest_is_found(package, at):
    raw = bytearray((package / MANIFEST).read_bytes())
    raw[at % len(raw)] ^= 1
    (package / MANIFEST).write_bytes(raw)
    check_refused(package, match="does not fit the manifest; one of the two was changed")


@pytest.mark.parametrize("name", CONTENTS)
def test_a_flipped_bit_in_any_other_file_is_found(package, name):
    content = bytearray(CONTENTS[name])
    content[0] ^= 1
    (package / name).write_bytes(content)
    check_refused(package, DigestError)


def test_the_signature_of_another_package_is_no_good(package, tmp_path):
    write_folder(tmp_path / "next", CONTENTS | {"README.md": b"other"}, package_header, sign=[OWNER])
    shutil.copy(tmp_path / "next" / SIGNATURES, package)
    check_refused(package, match="does not fit")


@pytest.mark.parametrize(
    "message",
    [
        lambda raw: raw,
        lambda raw: b"fedlpp update v1" + signed_bytes(raw)[len(SCHEME) :],
        lambda raw: SCHEME.encode() + raw,
        lambda raw: SCHEME.encode() + b"\0" + raw,
        lambda raw: signed_bytes(raw) + b"\0",
        lambda raw: SCHEME.encode() + b"\0" + bytes(8) + raw,
    ],
    ids=["bare", "another scheme", "no length", "no length either", "more", "another length"],
)
def test_what_else_the_key_has_signed_passes_for_no_package(package, message):
    resign(package, signatures=[entry(OWNER, message((package / MANIFEST).read_bytes()))])
    check_refused(package, match="does not fit")


def test_a_key_beside_a_signature_that_another_has_made_is_found(package):
    made = entry(OTHER, signed_bytes((package / MANIFEST).read_bytes()))
    resign(package, signatures=[made | {"key": OWNER.public.text}])
    check_refused(package, match="does not fit")


def test_one_bad_signature_beside_a_good_one_is_refused(package):
    raw = (package / MANIFEST).read_bytes()
    good, bad = entry(OWNER, signed_bytes(raw)), entry(OTHER, raw)
    resign(package, signatures=sorted([good, bad], key=lambda one: one["key"]))
    check_refused(package, match="does not fit", signers=[OWNER.public])


def test_the_other_number_that_would_solve_the_equation_is_no_signature(package):
    """RFC 8032 section 5.1.7: the second half is below the group's order, or one signature had several texts."""
    made = entry(OWNER, signed_bytes((package / MANIFEST).read_bytes()))
    raw = base64.b64decode(made["value"])
    order = 2**252 + 27742317777372353535851937790883648493
    other = (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    resign(package, signatures=[made | {"value": base64.b64encode(raw[:32] + other).decode()}])
    check_refused(package, match="does not fit")


def test_any_other_32_bytes_are_not_the_key(package):
    made = entry(OWNER, signed_bytes((package / MANIFEST).read_bytes()))
    for raw in (bytes(32), b"\x02" + bytes(31), b"\xff" * 32):
        resign(package, signatures=[made | {"key": f"ed25519:{base64.b64encode(raw).decode()}"}])
        check_refused(package, match="does not fit")


def test_files_that_are_not_as_they_are_written_are_refused(package):
    message = signed_bytes((package / MANIFEST).read_bytes())
    one, two = sorted([entry(OWNER, message), entry(OTHER, message)], key=lambda made: made["key"])
    first = one["value"]
    for fields, match in (
        ({"signatures": []}, "length >= 1"),
        ({"signatures": [one, one]}, "twice"),
        ({"signatures": [two, one]}, "not in order"),
        ({"signatures": [one, {}]}, "missing required field"),
        ({"signatures": {}}, "array"),
        ({"scheme": "fedlpp update v1"}, "scheme"),
        ({"more": 1}, "unknown field 'more'"),
        ({"signatures": [one | {"name": "clinic"}]}, "unknown field"),
        ({"signatures": [one | {"key": one["key"] + " clinic"}]}, "a key with a name"),
        ({"signatures": [one | {"key": one["key"][:-1]}]}, "is no public key"),
        ({"signatures": [one | {"value": first[:-4]}]}, "regex"),
        ({"signatures": [one | {"value": first[:-3] + chr(ord(first[-3]) + 1) + "=="}]}, "another spelling"),
    ):
        resign(package, **({"signatures": [one]} | fields))
        check_refused(package, match=match)
    (package / SIGNATURES).write_bytes(b"")
    check_refused(package, match="not valid JSON")
    (package / SIGNATURES).write_text('{"scheme": "fedlpp package v1", "signatures": []}')
    check_refused(package, match="not canonical")


def test_a_file_beyond_the_limit_is_refused_unread(package):
    with (package / SIGNATURES).open("ab") as stream:
        stream.truncate(2**36)
    check_refused(package, match=f"{MAX_BYTES + 1} bytes of JSON, at most {MAX_BYTES}")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(shutil.move(path.with_name("kept"), path.parent.with_name("kept"))),
    ],
    ids=["pipe", "folder", "endless device", "link to nowhere", "link to the very same bytes"],
)
def test_what_is_no_plain_file_is_refused_without_waiting(package, make):
    (package / SIGNATURES).rename(package / "kept")
    make(package / SIGNATURES)
    check_refused(package, InputError, match=SIGNATURES)


@pytest.mark.parametrize("name", ["Manifest.sig.json", "manifest.sig", "base/manifest.sig.json", ".manifest.sig.json"])
def test_exactly_one_name_is_admitted(package, name):
    shutil.copy(package / SIGNATURES, package / name)
    check_refused(package, ArtifactError, match="is not listed in the manifest")


def test_a_manifest_that_lists_its_own_signatures_is_refused(package):
    plain = json.loads((package / MANIFEST).read_bytes())
    plain["files"].append({"name": SIGNATURES, "size": 1, "sha256": "0" * 64})
    (package / MANIFEST).write_bytes(canonical.encode(plain))
    (package / SIGNATURES).write_bytes(sign_manifest((package / MANIFEST).read_bytes(), [OWNER]))
    check_refused(package, ArtifactError, match="listed in the manifest, but missing")


def test_a_base_has_no_signatures_of_its_own(tmp_path):
    spec = BaseArtifactSpec(quantize=BaseQuantSpec(), model_type="llama", unquantized={})
    write_folder(tmp_path / "base", {}, lambda files: BaseHeader(**LINEAGE, spec=spec, files=files), sign=[OWNER])
    for opener in (lambda path: open_folder(path, BaseHeader), open_any):
        with pytest.raises(ArtifactError, match=f"{SIGNATURES} is not listed"):
            opener(tmp_path / "base")
    (tmp_path / "base" / SIGNATURES).unlink()
    assert open_any(tmp_path / "base", signers=[OWNER.public]).header.kind == "base"


def test_the_file_is_written_by_nobody_else(tmp_path):
    with pytest.raises(ValueError, match="written here"):
        write_folder(tmp_path / "a", {SIGNATURES: b"x"}, package_header)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_replaces_a_signed_one_is_signed_by_whoever_signs_it_now(package):
    write_folder(package, CONTENTS, package_header, sign=[OTHER], force=True)
    assert open_folder(package, PackageHeader).signed_by == (OTHER.public,)
    write_folder(package, CONTENTS, package_header, force=True)
    assert open_folder(package, PackageHeader).signed_by == ()


def test_an_error_names_all_that_would_do():
    wanted = [signing_key(3, "north").public, OTHER.public]
    with pytest.raises(SignerError) as caught:
        check_signers([OWNER.public], wanted, source="package")
    assert str(caught.value).startswith("package: signed by 34750f98bd59…; a signature of ")
    assert "north (" in str(caught.value)
    assert " or " in str(caught.value)


def test_a_signing_key_does_not_show_what_it_holds():
    secret = private_key(1).private_bytes_raw()
    assert str(secret) not in repr(OWNER)
    assert "_private" not in repr(OWNER)
