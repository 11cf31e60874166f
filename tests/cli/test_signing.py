"""Keys and signed packages by the command line: made, asked for, refused; and no secret anywhere it should not be."""

import base64
import hashlib
import json
import os
import pty
import select
import shutil
import sys
import time

import pytest
from huggingface_hub import HfApi
from support.hub_client import use_hub
from support.hub_server import HubServer
from support.keys import PASSPHRASE, private_key, sign_copy, signing_key, write_keys

from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.artifact.signatures import SIGNATURES
from fedlpp_cli.cli.app import app

RECIPE = ["--steps", "3", "--batch-size", "4", "--learning-rate", "1e-2"]


@pytest.fixture
def fedlpp(runner):
    """Runs a command that succeeds; its data."""

    def run(*args):
        done = runner.invoke(app, [*map(str, args), "--json"])
        assert (done.exit_code, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)["data"]

    return run


@pytest.fixture
def fails(runner):
    """Runs a command that fails; its exit code and error."""

    def run(*args, **environment):
        done = runner.invoke(app, [*map(str, args), "--json"], env=environment)
        error = json.loads(done.stdout)["error"]
        assert "\n" not in error["message"]
        assert done.exit_code == error["exit_code"]
        return done.exit_code, error

    return run


@pytest.fixture
def key(tmp_path):
    """An encrypted key pair and the file with its passphrase."""
    write_keys(tmp_path / "clinic.pem", 1, passphrase=PASSPHRASE)
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    return tmp_path / "clinic.pem"


@pytest.fixture
def signed(played, tmp_path):
    return sign_copy(played.package(0), tmp_path / "signed", [signing_key(1)])


@pytest.fixture
def train(played, tmp_path):
    """Arguments of a dry run on a package."""

    def arguments(package, *options):
        return [
            "client-train", package, "--client", "a", "--data", played.data("a"), "--base", played.base, "--device",
            "cpu", "--trial-steps", "0", "--out", tmp_path / "update.safetensors", "--dry-run", *options,
        ]  # fmt: skip

    return arguments


FINGERPRINT = signing_key(1).public.fingerprint


class TestKeygen:
    def test_a_pair_is_made_and_told_and_the_passphrase_is_asked_of_a_file_or_the_environment(
        self, fedlpp, tmp_path, monkeypatch
    ):
        (tmp_path / "passphrase").write_text(PASSPHRASE)
        made = fedlpp(
            "keygen", "--name", "clinic", "--passphrase-file", tmp_path / "passphrase", "-o", tmp_path / "a.pem"
        )
        assert made == {
            "path": str(tmp_path / "a.pem"),
            "public": str(tmp_path / "a.pub"),
            "name": "clinic",
            "key": (tmp_path / "a.pub").read_text().removesuffix("\n"),
            "fingerprint": made["fingerprint"],
            "encrypted": True,
        }
        monkeypatch.setenv("FEDLPP_PASSPHRASE", PASSPHRASE)
        assert fedlpp("keygen", "--name", "b", "--out", tmp_path / "b.pem")["encrypted"] is True
        assert fedlpp("keygen", "--name", "c", "--no-passphrase", "--out", tmp_path / "c.pem")["encrypted"] is False
        assert b"ENCRYPTED" in (tmp_path / "b.pem").read_bytes()
        assert b"ENCRYPTED" not in (tmp_path / "c.pem").read_bytes()

    def test_people_read_the_whole_fingerprint_and_last_where_the_key_is(self, runner, tmp_path):
        out = tmp_path / "a.pem"
        shown = runner.invoke(app, ["keygen", "--name", "clinic", "--no-passphrase", "--out", str(out)]).stdout
        raw = base64.b64decode((tmp_path / "a.pub").read_text().split()[0].removeprefix("ed25519:"))
        assert hashlib.sha256(raw).hexdigest() in shown
        assert "not encrypted: whoever reads the file can sign" in shown
        assert shown.rstrip().splitlines()[-1] == str(out)

    @pytest.mark.parametrize(
        ("options", "code", "name", "said"),
        [
            ([], 2, "usage", "there is no terminal to ask for it"),
            (["--no-passphrase", "--name", "Clinic"], 2, "usage", "--name 'Clinic': up to 63"),
            (["--no-passphrase", "--passphrase-file", "passphrase"], 2, "usage", "do not go together"),
            (["--passphrase-file", "short"], 2, "usage", "8 characters at least"),
            (["--passphrase-file", "long"], 2, "usage", "1023 bytes at most"),
            (["--passphrase-file", "empty"], 3, "input", "one line with a passphrase"),
            (["--passphrase-file", "lines"], 3, "input", "one line with a passphrase"),
            (["--passphrase-file", "bytes"], 3, "input", "not text in UTF-8"),
            (["--passphrase-file", "missing"], 3, "input", "missing: cannot be read"),
            (["--no-passphrase", "--out", "hf://acme/keys/a.pem"], 7, "secrecy", "not written to the Hub"),
            (["--no-passphrase", "--out", "there.pem"], 8, "output-exists", "keys are not written over"),
        ],
    )
    def test_what_goes_wrong_is_one_line_and_leaves_nothing(
        self, fails, tmp_path, monkeypatch, options, code, name, said
    ):
        monkeypatch.chdir(tmp_path)
        texts = {"short": "1234567", "long": "x" * 1024, "empty": "\n", "lines": "one\ntwo\n", "there.pem": "mine"}
        for file, text in texts.items():
            (tmp_path / file).write_text(text)
        (tmp_path / "bytes").write_bytes(b"\xff" * 9)
        (tmp_path / "passphrase").write_text(PASSPHRASE)
        before = sorted(tmp_path.iterdir())
        found, error = fails("keygen", "--name", "clinic", "--out", "a.pem", *options)
        assert (found, error["code"]) == (code, name)
        assert said in error["message"]
        assert sorted(tmp_path.iterdir()) == before
        assert (tmp_path / "there.pem").read_text() == "mine"

    @pytest.mark.parametrize("again", [PASSPHRASE, "something else"])
    def test_at_a_terminal_a_person_is_asked_twice_and_sees_nothing_of_it(self, tmp_path, again):
        shown, code = at_terminal(
            ["keygen", "--name", "clinic", "--out", str(tmp_path / "a.pem")],
            [("Passphrase: ", PASSPHRASE), ("The same again: ", again)],
        )
        assert PASSPHRASE not in shown
        assert again not in shown
        if again == PASSPHRASE:
            assert code == 0
            assert shown.rstrip().splitlines()[-1].endswith("a.pem")
        else:
            assert (code, list(tmp_path.iterdir())) == (2, [])
            assert "the two passphrases differ" in shown


def at_terminal(arguments, answers):
    """Run a command at a terminal of its own, and type."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "fedlpp_cli", *arguments])
    shown, answers = "", list(answers)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            text = os.read(terminal, 4096).decode()
        except OSError:  # the other end is closed
            break
        if not text:
            break
        shown += text
        if answers and shown.endswith(answers[0][0]):
            os.write(terminal, f"{answers.pop(0)[1]}\n".encode())
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TestPack:
    def test_a_package_is_signed_and_is_otherwise_the_same(self, fedlpp, played, key, tmp_path):
        passphrase = ("--passphrase-file", tmp_path / "passphrase")
        write_keys(tmp_path / "second.pem", 2)
        plain = fedlpp("pack", played.proxy(0), *RECIPE, "--out", tmp_path / "plain")
        made = fedlpp("pack", played.proxy(0), *RECIPE, "--sign", key, *passphrase, "--out", tmp_path / "package")
        assert made["signed_with"] == [FINGERPRINT]
        assert plain["signed_with"] == []
        assert made["sha256"] == plain["sha256"]
        names = {path.name for path in (tmp_path / "package").iterdir()}
        assert names - {path.name for path in (tmp_path / "plain").iterdir()} == {SIGNATURES}
        both = ("--sign", key, "--sign", tmp_path / "second.pem", *passphrase, "--force", "--out", tmp_path / "package")
        assert len(fedlpp("pack", played.proxy(0), *RECIPE, *both)["signed_with"]) == 2
        assert len(fedlpp("inspect", tmp_path / "package")["signers"]) == 2
        fedlpp("pack", played.proxy(0), *RECIPE, "--force", "--out", tmp_path / "package")
        assert fedlpp("inspect", tmp_path / "package")["signers"] == []

    @pytest.mark.parametrize(
        ("options", "code", "name", "said"),
        [
            (["--sign", "clinic.pem"], 2, "usage", "there is no terminal to ask for it"),
            (["--sign", "clinic.pem", "--passphrase-file", "wrong"], 3, "input", "wrong passphrase"),
            (["--sign", "open.pem"], 7, "secrecy", "a private key that others may open"),
            (["--sign", "missing.pem"], 3, "input", "missing.pem: cannot be read"),
            (["--sign", "plain.pub"], 3, "input", "not a private key in PEM"),
            (["--sign", "plain.pem", "--sign", "plain.pem"], 2, "usage", "the same key twice"),
            (["--passphrase-file", "passphrase"], 2, "usage", "goes with --sign"),
        ],
    )
    def test_a_key_that_does_not_open_stops_everything_before_anything_is_released(
        self, fails, played, key, tmp_path, monkeypatch, options, code, name, said
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "wrong").write_text("wrong horse battery")
        write_keys(tmp_path / "plain.pem", 2)
        write_keys(tmp_path / "open.pem", 3)
        (tmp_path / "open.pem").chmod(0o644)
        call = ("pack", played.proxy(0), *RECIPE, *options, "--ledger", "ledger", "--out", "package")
        for dry_run in ([], ["--dry-run"]):
            found, error = fails(*call, *dry_run)
            assert (found, error["code"]) == (code, name)
            assert said in error["message"]
        assert not (tmp_path / "package").exists()
        assert not (tmp_path / "ledger").exists()

    def test_at_a_terminal_the_passphrase_is_asked_for(self, played, key, tmp_path):
        arguments = [
            "pack",
            played.proxy(0),
            *RECIPE,
            "--sign",
            key,
            "--ledger",
            tmp_path / "l",
            "-o",
            tmp_path / "package",
        ]
        shown, code = at_terminal([*map(str, arguments)], [(f"Passphrase of {key}: ", PASSPHRASE)])
        assert (code, PASSPHRASE in shown) == (0, False)
        assert (tmp_path / "package" / SIGNATURES).is_file()

    def test_no_byte_of_the_key_or_its_passphrase_is_in_anything_that_is_made_or_said(
        self, runner, played, key, tmp_path
    ):
        secret = private_key(1).private_bytes_raw()
        body = b"".join(key.read_bytes().splitlines()[1:-1])
        out = tmp_path / "out"
        said = b""
        passphrase = ("--passphrase-file", tmp_path / "passphrase")
        pack = ("pack", played.proxy(0), *RECIPE, "--sign", key, *passphrase, "--ledger", out / "ledger")
        out.mkdir()
        for call in (
            (*pack, "--out", out / "package"),
            (*pack, "--out", out / "package", "--json", "--force"),
            (*pack, "--out", out / "package"),  # it exists
            (*pack[:-4], "--passphrase-file", played.proxy(0), "--out", out / "other"),
            (*pack, "--sign", key, "--out", out / "other"),
            ("inspect", out / "package"),
            ("inspect", key),
            ("verify", out / "package", "--signer", key),
            ("verify", out / "package", "--signer", key.with_suffix(".pub")),
        ):
            done = runner.invoke(app, [str(argument) for argument in call], env={"FEDLPP_DEBUG": "1"})
            said += done.stdout.encode() + done.stderr.encode()
        made = said + b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert base64.b64encode(private_key(1).public_key().public_bytes_raw()) in made
        hidden = (
            secret,
            secret.hex().encode(),
            base64.b64encode(secret)[:42],
            repr(secret).encode(),
            PASSPHRASE.encode(),
        )
        assert [one for one in (*hidden, body[:60], body[-60:]) if one in made] == []


class TestAskingForSigners:
    def test_verify_asks_for_a_file_or_a_text_and_says_who_signed(self, fedlpp, runner, signed, key, tmp_path):
        public = key.with_suffix(".pub")
        for signer, name in ((public, "clinic"), (signing_key(1).public.text, None)):
            package, proxy = fedlpp("verify", signed, "--signer", signer)["artifacts"]
            assert package["signers"] == [{"fingerprint": FINGERPRINT, "name": name, "trusted": True}]
            assert proxy["signers"] == []
        unasked = [{"fingerprint": FINGERPRINT, "name": None, "trusted": False}]
        assert fedlpp("verify", signed)["artifacts"][0]["signers"] == fedlpp("inspect", signed)["signers"] == unasked
        shown = runner.invoke(app, ["verify", str(signed), "--signer", str(public)]).stdout
        assert f"is signed by clinic ({FINGERPRINT[:12]})" in shown
        assert f"is signed by unknown key {FINGERPRINT[:12]}" in runner.invoke(app, ["verify", str(signed)]).stdout
        assert FINGERPRINT in runner.invoke(app, ["inspect", str(signed)]).stdout

    def test_verify_refuses_packages_of_others_and_artifacts_that_nobody_signs(
        self, fails, played, signed, key, tmp_path
    ):
        public, other = key.with_suffix(".pub"), signing_key(2).public.text
        assert fails("verify", signed, "--signer", other)[1]["code"] == "policy-signer"
        found, error = fails("verify", played.package(0), "--signer", public)
        assert (found, error["code"]) == (10, "policy-signer")
        assert error["message"].endswith(f"not signed; a signature of clinic ({FINGERPRINT[:12]}…) is needed")
        assert fails("verify", signed, played.package(0), "--signer", public)[0] == 10
        assert fails("verify", played.proxy(0), "--signer", public)[1]["code"] == "usage"
        assert fails("verify", played.folder, "--signer", public)[0] == 10

    @pytest.mark.parametrize(
        ("signer", "code", "said"),
        [
            ("ed25519:short", 2, "--signer: 'ed25519:short' is no public key"),
            (FINGERPRINT, 3, "cannot be read"),
            ("clinic.pem", 3, "in PEM; the public key is needed"),
            ("passphrase", 3, "is no public key"),
        ],
    )
    def test_what_is_no_key_is_refused(self, fails, signed, key, tmp_path, monkeypatch, signer, code, said):
        monkeypatch.chdir(tmp_path)
        found, error = fails("verify", signed, "--signer", signer)
        assert found == code
        assert said in error["message"]

    def test_client_train_takes_packages_of_signers_alone(self, fedlpp, fails, played, signed, key, train):
        public, other = key.with_suffix(".pub"), signing_key(2, "other").public.line
        trusted = [{"fingerprint": FINGERPRINT, "name": "clinic", "trusted": True}]
        assert fedlpp(*train(signed, "--signer", public))["signers"] == trusted
        assert fedlpp(*train(signed, "--signer", other, "--signer", public))["signers"] == trusted
        assert fedlpp(*train(signed))["signers"] == [trusted[0] | {"name": None, "trusted": False}]
        assert fedlpp(*train(played.package(0)))["signers"] == []
        for package in (signed, played.package(0)):
            found, error = fails(*train(package, "--signer", other))
            assert (found, error["code"]) == (10, "policy-signer")
            assert "a signature of other (" in error["message"]

    def test_a_policy_names_signers_and_an_option_cannot_widen_it(
        self, fedlpp, fails, played, signed, key, train, tmp_path
    ):
        policy, public, other = tmp_path / "client.toml", key.with_suffix(".pub"), signing_key(2).public
        line = public.read_text().removesuffix("\n")
        policy.write_text(f'signers = ["{line}", "{other.text} other"]\n')
        asked = ("--policy", policy)
        assert fedlpp(*train(signed, *asked))["signers"][0]["name"] == "clinic"
        assert fails(*train(played.package(0), *asked))[1]["code"] == "policy-signer"
        assert fails(*train(signed, *asked, "--signer", other.text))[1]["code"] == "policy-signer"
        assert fedlpp(*train(signed, *asked, "--signer", public))["signers"][0]["trusted"] is True
        assert fails(*train(signed, *asked, "--signer", signing_key(3).public.text))[1]["code"] == "usage"
        policy.write_text(f'signers = ["{other.text}"]\n')
        found, error = fails(*train(signed), FEDLPP_POLICY=str(policy))
        assert (found, error["code"]) == (10, "policy-signer")

    def test_signers_are_asked_for_before_the_limits_and_the_base(self, fails, played, train, tmp_path):
        (tmp_path / "client.toml").write_text(f'max_steps = 1\nsigners = ["{signing_key(1).public.text}"]\n')
        found, error = fails(
            *train(played.package(0), "--policy", tmp_path / "client.toml", "--base", tmp_path / "none")
        )
        assert (found, error["code"]) == (10, "policy-signer")

    def test_a_signed_package_trains_to_the_very_same_update(self, fedlpp, played, signed, key, train, tmp_path):
        call = [argument for argument in train(signed, "--signer", key.with_suffix(".pub")) if argument != "--dry-run"]
        fedlpp(*call)
        assert (tmp_path / "update.safetensors").read_bytes() == played.update(0, "a").read_bytes()

    @pytest.mark.parametrize("command", ["inspect", "verify", "client-train"])
    def test_a_changed_manifest_is_exit_code_4_everywhere(self, fails, signed, train, command):
        raw = (signed / MANIFEST).read_bytes()
        (signed / MANIFEST).write_bytes(raw.replace(b'"round":0', b'"round":1'))
        found, error = fails(*(train(signed) if command == "client-train" else [command, signed]))
        assert (found, error["code"]) == (4, "artifact-signature")
        assert "does not fit the manifest" in error["message"]


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        with HubServer(tokens={"hf_owner": "acme"}) as server:
            use_hub(monkeypatch, server, tmp_path / "home", token="hf_owner")
            yield server

    def test_a_signature_goes_through_the_hub_with_its_package(self, hub, fedlpp, fails, played, key, train, tmp_path):
        place, public = "hf://acme/run/round-0000/package", key.with_suffix(".pub")
        pack = (
            "pack",
            played.proxy(0),
            *RECIPE,
            "--passphrase-file",
            tmp_path / "passphrase",
            "--sign",
            key,
            "-o",
            place,
        )
        made = fedlpp(*pack)
        assert fedlpp("verify", place, "--signer", public)["artifacts"][0]["signers"][0]["name"] == "clinic"
        assert fedlpp(*train(place, "--signer", public))["signers"][0]["trusted"] is True
        sent = hub.file("acme/run", "main", f"round-0000/package/{SIGNATURES}")
        assert base64.b64encode(signing_key(1).public.raw) in sent
        write_keys(tmp_path / "second.pem", 2)
        fedlpp("pack", played.proxy(0), *RECIPE, "--force", "--sign", tmp_path / "second.pem", "-o", place)
        assert fails("verify", place, "--signer", public)[1]["code"] == "policy-signer"
        fedlpp("pack", played.proxy(0), *RECIPE, "--force", "-o", place)
        assert fedlpp("inspect", place)["signers"] == []
        assert fedlpp("inspect", made["path"])["signers"][0]["fingerprint"] == FINGERPRINT

    def test_what_somebody_changes_on_the_hub_is_found(self, hub, fails, played, signed, key, tmp_path):
        api = HfApi(endpoint=hub.url, token="hf_owner")
        api.create_repo("acme/run")
        api.upload_folder(repo_id="acme/run", folder_path=signed, path_in_repo="package")
        other = shutil.copy(played.package(0) / MANIFEST, tmp_path)
        raw = (tmp_path / MANIFEST).read_bytes().replace(b'"learning_rate":0.01', b'"learning_rate":0.02')
        assert raw != (played.package(0) / MANIFEST).read_bytes()
        (tmp_path / MANIFEST).write_bytes(raw)
        api.upload_file(repo_id="acme/run", path_or_fileobj=other, path_in_repo=f"package/{MANIFEST}")
        assert fails("inspect", "hf://acme/run/package")[1]["code"] == "artifact-signature"
        api.delete_file(f"package/{SIGNATURES}", repo_id="acme/run")
        assert (
            fails("verify", "hf://acme/run/package", "--signer", key.with_suffix(".pub"))[1]["code"] == "policy-signer"
        )
