"""Public keys as text: one spelling each, and a name that counts for nothing."""

import hashlib

import pytest

from fedlpp_cli.errors import SettingsError
from fedlpp_cli.records.keys import PublicKey, Signer, parse_public_key, signers_of
from fedlpp_cli.records.policy import ClientPolicy, read_policy

RAW = bytes(range(32))
TEXT = "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_a_key_is_read_as_it_is_written():
    assert parse_public_key(TEXT) == PublicKey(RAW)
    assert PublicKey(RAW).text == PublicKey(RAW, "clinic").text == TEXT
    assert parse_public_key(f"{TEXT} clinic").line == PublicKey(RAW, "clinic").line == f"{TEXT} clinic"


def test_keys_of_other_names_are_equal_and_other_keys_are_not():
    assert {PublicKey(RAW), PublicKey(RAW, "a"), PublicKey(RAW, "b")} == {PublicKey(RAW)}
    assert PublicKey(RAW) != PublicKey(bytes(32))


def test_the_fingerprint_is_what_sha256sum_says_of_the_key():
    assert PublicKey(RAW, "any").fingerprint == hashlib.sha256(RAW).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "", "ed25519:", TEXT[:-1], TEXT + "=", TEXT + "\n", TEXT + " ", TEXT + "  a", TEXT + " A", TEXT + " a b",
        " " + TEXT,
        TEXT.replace("8=", "9="),  # the same 32 bytes
        TEXT.removeprefix("ed25519:"), TEXT.replace("ed25519", "rsa"), TEXT.replace("A", "-", 1), "0" * 64,
        "clinic.pub",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_and_so_is_a_second_spelling(text):
    with pytest.raises(ValueError, match=r"is no public key, which is ed25519:"):
        parse_public_key(text)


def test_signers_have_the_names_that_the_readers_list_gives_them():
    mine, theirs = PublicKey(RAW), PublicKey(bytes(32), "they say")
    found = signers_of((mine, theirs), (PublicKey(RAW, "clinic"),))
    assert found == (
        Signer(fingerprint=mine.fingerprint, name="clinic", trusted=True),
        Signer(fingerprint=theirs.fingerprint, name=None, trusted=False),
    )


def test_a_policy_has_keys_with_or_without_a_name(tmp_path):
    other = PublicKey(bytes(32)).text
    (tmp_path / "client.toml").write_text(f'signers = ["{TEXT} clinic", "{other}"]\n')
    keys = read_policy(tmp_path / "client.toml").signer_keys
    assert [key.name for key in keys] == ["clinic", None]
    assert keys == (PublicKey(RAW), PublicKey(bytes(32)))
    assert ClientPolicy().signer_keys == ()


def test_a_policy_that_names_nobody_does_not_trust_everybody(tmp_path):
    (tmp_path / "client.toml").write_text("signers = []\n")
    with pytest.raises(SettingsError, match=r"signers: .*length >= 1"):
        read_policy(tmp_path / "client.toml")


@pytest.mark.parametrize("text", ["clinic.pub", hashlib.sha256(RAW).hexdigest(), TEXT.replace("8=", "9=")])
def test_a_policy_with_what_is_no_key_stops_everything(tmp_path, text):
    (tmp_path / "client.toml").write_text(f'signers = ["{text}"]\n')
    with pytest.raises(SettingsError, match=r"client.toml: .*is no public key"):
        read_policy(tmp_path / "client.toml")
