"""Signed transcripts: what is signed, where it lies, and every way in which a signature can be no good."""

import base64
import json
import os
import shutil
import stat
import subprocess

import pytest
from support.forge import sha256_of
from support.keys import signing_key

from fedlpp_cli import canonical
from fedlpp_cli.artifact.opening import open_any, signed_by
from fedlpp_cli.artifact.signatures import MAX_BYTES, TRANSCRIPT, sign_manifest, signatures_beside, signed_bytes
from fedlpp_cli.errors import (
    ArtifactError,
    DigestError,
    InputError,
    OutputExistsError,
    SignatureError,
    SignerError,
)
from fedlpp_cli.records.headers import TranscriptHeader
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.records.transcripts import InputsSpec, TranscriptSpec
from fedlpp_cli.tasks import transcripts
from fedlpp_cli.tasks.soft_labels import soft_labels
from fedlpp_cli.tasks.transcripts import open_transcript, write_transcript

TEACHER, OTHER = signing_key(1, "north"), signing_key(2)


def write(path, *keys, texts=("one", "two"), force=False):
    import torch

    spec = TranscriptSpec(
        teacher="north", inputs=InputsSpec(source="random"), task=TaskSpec(kind="seq-cls", labels=("a", "b")),
        vocabulary=None, n_outcomes=2, top_k=2, n_inputs=len(texts),
    )  # fmt: skip
    header = TranscriptHeader(federation=None, round=0, parents={}, spec=spec)
    answers = soft_labels(torch.arange(2.0 * len(texts)).reshape(-1, 2).sin(), 2, "log-probs")
    return write_transcript(path, header, texts, answers, sign=keys, force=force)


@pytest.fixture
def signed(tmp_path):
    """A transcript that one key has signed."""
    write(tmp_path / "t.safetensors", TEACHER)
    return tmp_path / "t.safetensors"


def check_refused(path, error=SignatureError, match=None, signers=()):
    """By both ways in."""
    for opener in (
        lambda: open_transcript(path, signers=signers),
        lambda: signed_by(open_any(path), signers=signers),
    ):
        with pytest.raises(error, match=match) as caught:
            opener()
        assert str(path) in str(caught.value)


def resign(path, scheme=TRANSCRIPT.name, **fields):
    """Another signature file, which is canonical too."""
    signatures_beside(path).write_bytes(canonical.encode({"scheme": scheme} | fields))


def entry(key, message):
    return {"key": key.public.text, "value": base64.b64encode(key.sign(message)).decode()}


def content(path):
    return sha256_of(path).encode()


def test_signatures_lie_beside_a_transcript_that_is_otherwise_the_same(signed, tmp_path):
    plain = write(tmp_path / "plain")
    assert signed.read_bytes() == (tmp_path / "plain").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} >= {"t.safetensors", "t.safetensors.sig.json", "plain"}
    assert not signatures_beside(tmp_path / "plain").exists()
    found = open_transcript(signed, signers=[OTHER.public, TEACHER.public])
    assert (found.signed_by, found.sha256) == ((TEACHER.public,), plain)
    assert signed_by(open_any(signed)) == open_transcript(signed).signed_by == (TEACHER.public,)
    assert open_transcript(tmp_path / "plain").signed_by == ()
    assert stat.S_IMODE(signatures_beside(signed).stat().st_mode) == stat.S_IMODE(signed.stat().st_mode)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_openssl_verifies_what_the_documents_say_is_signed(signed, tmp_path):
    made = json.loads(signatures_beside(signed).read_bytes())
    (found,) = made["signatures"]
    raw = base64.b64decode(found["key"].removeprefix("ed25519:"))
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)
    (tmp_path / "value").write_bytes(base64.b64decode(found["value"]))
    check = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", tmp_path / "key.der"]
    for scheme, code in ((b"fedlpp transcript v1", 0), (b"fedlpp package v1", 1)):
        (tmp_path / "message").write_bytes(scheme + b"\0" + (64).to_bytes(8, "big") + content(signed))
        call = [*check, "-sigfile", tmp_path / "value", "-in", tmp_path / "message"]
        assert subprocess.run(call, capture_output=True, check=False).returncode == code


def test_a_transcript_without_the_signature_that_is_asked_for_is_refused(signed):
    check_refused(signed, SignerError, r"signed by 34750f98bd59…; a signature of .* is needed", [OTHER.public])
    signatures_beside(signed).unlink()
    check_refused(signed, SignerError, r"not signed; a signature of north \(34750f98bd59…\)", [TEACHER.public])
    with pytest.raises(SignerError) as caught:
        open_transcript(signed, signers=[TEACHER.public])
    assert caught.value.hint == "ask the teacher for fedlpp distill publish --sign"
    assert open_transcript(signed).signed_by == ()


def test_who_signed_is_asked_before_anything_is_parsed(signed):
    signed.write_bytes(b"no safetensors")
    with pytest.raises(SignatureError, match="does not fit the transcript; one of the two was changed"):
        open_transcript(signed)
    signatures_beside(signed).unlink()
    with pytest.raises(SignerError):
        open_transcript(signed, signers=[TEACHER.public])
    with pytest.raises(ArtifactError):
        open_transcript(signed)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_found(signed, share):
    raw = bytearray(signed.read_bytes())
    raw[int(share * len(raw))] ^= 1
    signed.write_bytes(raw)
    with pytest.raises(SignatureError, match="does not fit the transcript"):
        open_transcript(signed)


def test_the_signature_of_another_transcript_is_no_good(signed, tmp_path):
    write(tmp_path / "other", TEACHER, texts=("three", "four"))
    shutil.copy(signatures_beside(tmp_path / "other"), signatures_beside(signed))
    check_refused(signed, match="does not fit")


def test_a_signature_of_a_package_passes_for_none_of_a_transcript(signed):
    """Neither as it is, nor with another scheme written over it."""
    of_package = sign_manifest(content(signed), [TEACHER])
    signatures_beside(signed).write_bytes(of_package)
    check_refused(signed, match="scheme is 'fedlpp package v1', 'fedlpp transcript v1' is needed")
    resign(signed, signatures=json.loads(of_package)["signatures"])
    check_refused(signed, match="does not fit")
    resign(signed, signatures=[entry(TEACHER, content(signed))])
    check_refused(signed, match="does not fit")


def test_one_bad_signature_beside_a_good_one_is_refused(signed):
    good = entry(TEACHER, signed_bytes(content(signed), TRANSCRIPT))
    resign(signed, signatures=sorted([good, entry(OTHER, b"else")], key=lambda one: one["key"]))
    check_refused(signed, match="does not fit", signers=[TEACHER.public])
    both = entry(OTHER, signed_bytes(content(signed), TRANSCRIPT))
    resign(signed, signatures=sorted([good, both], key=lambda one: one["key"]))
    assert set(open_transcript(signed, signers=[OTHER.public]).signed_by) == {TEACHER.public, OTHER.public}


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("no"),
    ],
    ids=["pipe", "folder", "endless device", "link to nowhere"],
)
def test_what_is_no_plain_file_is_refused_without_waiting(signed, make):
    signatures_beside(signed).unlink()
    make(signatures_beside(signed))
    check_refused(signed, InputError, match="sig.json")


def test_a_signature_file_beyond_the_limit_is_refused_unread(signed):
    os.truncate(signatures_beside(signed), 2**36)
    check_refused(signed, match=f"at most {MAX_BYTES}")


def test_a_transcript_that_is_swapped_behind_the_check_is_found(signed, tmp_path, monkeypatch):
    write(tmp_path / "other", texts=("three", "four"))
    read = transcripts.read_transcript_signatures

    def swapping(path, sha256):
        found = read(path, sha256)
        shutil.copy(tmp_path / "other", path)
        return found

    monkeypatch.setattr(transcripts, "read_transcript_signatures", swapping)
    with pytest.raises(DigestError, match="changed while it was read"):
        open_transcript(signed, signers=[TEACHER.public])


def test_what_replaces_a_signed_transcript_is_signed_by_whoever_signs_it_now(signed):
    write(signed, OTHER, texts=("new",), force=True)
    assert open_transcript(signed).signed_by == (OTHER.public,)
    write(signed, texts=("newer",), force=True)
    assert open_transcript(signed).signed_by == ()
    assert not signatures_beside(signed).exists()


@pytest.mark.parametrize("keys", [(), (OTHER,)], ids=["unsigned", "signed"])
def test_signatures_that_are_there_are_not_written_over(signed, keys):
    before = signatures_beside(signed).read_bytes()
    signed.unlink()
    with pytest.raises(OutputExistsError, match=r"sig\.json exists"):
        write(signed, *keys)
    assert not signed.exists()
    assert signatures_beside(signed).read_bytes() == before
    assert list(signed.parent.iterdir()) == [signatures_beside(signed)]
