"""Key pairs on disk: who may read them, what opens them, and that they are there whole or not at all."""

import base64
import os
import resource
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from support.keys import PASSPHRASE, private_key, signing_key, write_keys

from fedlpp_cli.artifact.key_files import public_path, read_public_key, read_signing_key, write_key_pair
from fedlpp_cli.errors import InputError, OutputError, OutputExistsError, SecrecyError


def never():
    raise AssertionError("nobody should have been asked")


def mode(path):
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE, "ü" * 8])
def test_a_pair_is_read_as_it_was_written(tmp_path, passphrase):
    made = write_key_pair(tmp_path / "clinic.pem", "clinic", passphrase and passphrase.encode())
    opened = read_signing_key(tmp_path / "clinic.pem", (lambda: passphrase) if passphrase else never)
    assert opened.public == made == read_public_key(tmp_path / "clinic.pub")
    assert read_public_key(tmp_path / "clinic.pub").name == "clinic"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clinic.pem", "clinic.pub"]
    private_bytes = opened.sign(b"message")
    assert private_bytes == load_pem_private_key(
        (tmp_path / "clinic.pem").read_bytes(), passphrase and passphrase.encode()
    ).sign(b"message")


def test_no_two_keys_are_the_same(tmp_path):
    assert write_key_pair(tmp_path / "a.pem", "a", None) != write_key_pair(tmp_path / "b.pem", "b", None)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_open_the_private_key_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_key_pair(tmp_path / "a.pem", "a", PASSPHRASE.encode())
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.pem") == 0o600
    assert mode(tmp_path / "a.pub") == 0o666 & ~umask


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o620, 0o601, 0o777, 0o444])
def test_a_private_key_that_others_may_open_is_not_used(tmp_path, bits):
    write_keys(tmp_path / "a.pem", 1)
    (tmp_path / "a.pem").chmod(bits)
    with pytest.raises(SecrecyError, match=f"others may open \\(mode {bits:04o}, 0600 is needed\\)") as caught:
        read_signing_key(tmp_path / "a.pem", never)
    assert "chmod 600" in caught.value.hint


def test_the_mode_is_that_of_the_file_behind_a_link(tmp_path):
    write_keys(tmp_path / "a.pem", 1)
    (tmp_path / "link.pem").symlink_to("a.pem")
    assert read_signing_key(tmp_path / "link.pem", never).public == signing_key(1).public
    (tmp_path / "a.pem").chmod(0o644)
    with pytest.raises(SecrecyError):
        read_signing_key(tmp_path / "link.pem", never)


@pytest.mark.parametrize("given", ["wrong horse battery", "", PASSPHRASE + " ", PASSPHRASE.upper(), "x" * 2000])
def test_another_passphrase_opens_nothing(tmp_path, given):
    write_keys(tmp_path / "a.pem", 1, passphrase=PASSPHRASE)
    with pytest.raises(InputError, match=r"a\.pem: wrong passphrase, or a damaged key$"):
        read_signing_key(tmp_path / "a.pem", lambda: given)


def write_private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)


def pem(key, form=PrivateFormat.PKCS8):
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a private key in PEM"),
        (bytes(range(100, 200)), "not a private key in PEM"),
        (f"{signing_key(1).public.line}\n".encode(), "not a private key in PEM"),
        (pem(private_key(1))[:60], "a damaged key"),
        (pem(private_key(1)).replace(b"MC4", b"MC5"), "a damaged key"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "a damaged key"),
        (pem(X25519PrivateKey.generate()), "of another kind, Ed25519 is needed"),
        (pem(rsa.generate_private_key(65537, 2048)), "of another kind, Ed25519 is needed"),
        (pem(private_key(1), PrivateFormat.OpenSSH), "not a private key in PEM"),
        (pem(private_key(1)).replace(b"\n-----END", b"\n" * 9000 + b"-----END"), "a damaged key"),
    ],
    # Keys of other kinds are new in each process, and processes that share the tests have to call them the same.
    ids=[
        "empty",
        "noise",
        "a public key",
        "cut short",
        "another length",
        "nothing in it",
        "X25519",
        "RSA",
        "OpenSSH",
        "long",
    ],
)
def test_what_is_no_ed25519_key_is_named_in_one_line(tmp_path, data, match):
    write_private(tmp_path / "a.pem", data)
    with pytest.raises(InputError, match=match) as caught:
        read_signing_key(tmp_path / "a.pem", never)
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(30)
def test_a_key_that_is_missing_or_no_file_is_named_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        for read in (read_public_key, lambda path: read_signing_key(path, never)):
            with pytest.raises(InputError):
                read(tmp_path / name)


def test_a_private_key_in_place_of_the_public_one_is_told_where_that_is(tmp_path):
    write_keys(tmp_path / "a.pem", 1)
    with pytest.raises(InputError, match="in PEM; the public key is needed") as caught:
        read_public_key(tmp_path / "a.pem")
    assert caught.value.hint == str(tmp_path / "a.pub")


def test_a_public_key_is_one_line(tmp_path):
    line = signing_key(1).public.text
    for text in (line, f"{line}\n", f"{line} clinic\n"):
        (tmp_path / "a.pub").write_text(text)
        assert read_public_key(tmp_path / "a.pub").text == line
    for text in ("", "\n", f"{line}\n{line}\n", f"# clinic\n{line}\n", f"{line}\r\n", line + "\n" * 2, "x" * 10**6):
        (tmp_path / "a.pub").write_bytes(text.encode())
        with pytest.raises(InputError, match="is no public key"):
            read_public_key(tmp_path / "a.pub")


@pytest.mark.parametrize("name", ["a.pem", "a.pub"])
@pytest.mark.parametrize("broken_link", [False, True])
def test_nothing_is_written_over(tmp_path, name, broken_link):
    if broken_link:
        (tmp_path / name).symlink_to("nowhere")
    else:
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExistsError, match=f"{name} exists; keys are not written over"):
        write_key_pair(tmp_path / "a.pem", "a", None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_public_key_lies_beside_the_private_one(tmp_path):
    named = {"a.pem": "a.pub", "a": "a.pub", "a.2026": "a.2026.pub", "a.pub": "a.pub.pub"}
    assert {name: public_path(tmp_path / name).name for name in named} == named


@pytest.mark.parametrize("n_bytes", [0, 30, 100])
def test_a_key_is_there_whole_or_not_at_all(tmp_path, n_bytes):
    """No file of the child may grow beyond `n_bytes`, which is in the middle of the first, or of the second."""
    code = f"""
import resource, signal
from fedlpp_cli.artifact.key_files import write_key_pair
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({n_bytes}, {n_bytes}))
write_key_pair(Path({str(tmp_path / "a.pem")!r}), "a", b"{PASSPHRASE}")
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in {resource.RLIM_INFINITY, -1}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert OutputError.__name__ in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_key_in_a_folder_that_is_not_there_makes_it(tmp_path):
    write_key_pair(tmp_path / "keys" / "a.pem", "a", None)
    assert read_public_key(tmp_path / "keys" / "a.pub").name == "a"


def test_scrypt_is_what_hides_the_key(tmp_path):
    """Object identifiers of PBES2, scrypt and AES-256-CBC; N 16384, r 8, p 5; new salt and start each time."""
    found = []
    for name in "ab":
        write_keys(tmp_path / name, 1, passphrase=PASSPHRASE)
        lines = (tmp_path / name).read_text().splitlines()
        assert (lines[0], lines[-1]) == ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----")
        assert max(map(len, lines[1:-1])) <= 64
        found.append(base64.b64decode("".join(lines[1:-1])))
    for raw in found:
        assert bytes.fromhex("06092a864886f70d01050d") in raw
        assert bytes.fromhex("06092b06010401da47040b") in raw
        assert bytes.fromhex("02024000020108020105") in raw
        assert bytes.fromhex("060960864801650304012a") in raw
        assert private_key(1).private_bytes_raw() not in raw
    assert found[0][-64:] != found[1][-64:]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_opens_our_keys_and_we_open_its(tmp_path):
    write_keys(tmp_path / "a.pem", 1, passphrase=PASSPHRASE)
    plain = subprocess.run(
        ["openssl", "pkcs8", "-in", tmp_path / "a.pem", "-passin", f"pass:{PASSPHRASE}"],
        capture_output=True,
        check=True,
    ).stdout
    assert load_pem_private_key(plain, None).private_bytes_raw() == private_key(1).private_bytes_raw()
    write_private(tmp_path / "b.pem", plain)
    for option in ("-scrypt", "-v2"):
        hide = ["openssl", "pkcs8", "-topk8", option, *(["aes-256-cbc"] if option == "-v2" else [])]
        files = ["-in", tmp_path / "b.pem", "-out", tmp_path / "c.pem", "-passout", f"pass:{PASSPHRASE}"]
        subprocess.run([*hide, *files], check=True)
        (tmp_path / "c.pem").chmod(0o600)
        assert read_signing_key(tmp_path / "c.pem", lambda: PASSPHRASE).public == signing_key(1).public


def test_a_key_that_the_library_encrypted_opens_too(tmp_path):
    data = private_key(1).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode()))
    write_private(tmp_path / "a.pem", data)
    assert read_signing_key(tmp_path / "a.pem", lambda: PASSPHRASE).public == signing_key(1).public
