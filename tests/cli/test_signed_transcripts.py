"""Signed transcripts by the command line: published, asked for, refused; and signatures that go through the Hub."""

import base64
import json

import pytest
from support.hub_client import use_hub
from support.hub_server import HubServer
from support.keys import PASSPHRASE, private_key, signing_key, write_keys

from fedlpp_cli.artifact.signatures import signatures_beside
from fedlpp_cli.cli.app import app

FINGERPRINT = signing_key(1).public.fingerprint
OTHER = signing_key(2, "south").public


@pytest.fixture
def call(runner):
    """Runs a command; its exit code and what it says in JSON."""

    def run(*args, **environment):
        done = runner.invoke(app, [*map(str, args), "--json"], env=environment)
        said = json.loads(done.stdout)
        assert "Traceback" not in done.stderr
        return done.exit_code, said.get("data") or said["error"]

    return run


@pytest.fixture
def fedlpp(call):
    """Runs a command that succeeds; its data."""

    def run(*args, **environment):
        code, found = call(*args, **environment)
        assert code == 0, found
        return found

    return run


@pytest.fixture
def key(tmp_path):
    """An encrypted key pair and the file with its passphrase."""
    write_keys(tmp_path / "north.pem", 1, name="north", passphrase=PASSPHRASE)
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    return tmp_path / "north.pem"


@pytest.fixture
def publish(played, key, tmp_path):
    """Arguments of a transcript of four inputs."""

    def arguments(out, *options, sign=True):
        signed = ("--sign", key, "--passphrase-file", tmp_path / "passphrase") if sign else ()
        return [
            "distill", "publish", played.master(1), "--base", played.base, "--teacher", "north", "--random",
            "--n-inputs", 4, "--device", "cpu", *signed, *options, "--out", out,
        ]  # fmt: skip

    return arguments


@pytest.fixture
def signed(fedlpp, publish, tmp_path):
    fedlpp(*publish(tmp_path / "signed.safetensors"))
    return tmp_path / "signed.safetensors"


@pytest.fixture
def plain(fedlpp, publish, tmp_path):
    fedlpp(*publish(tmp_path / "plain.safetensors", sign=False))
    return tmp_path / "plain.safetensors"


@pytest.fixture
def learn(played, tmp_path):
    """Arguments of a training of one step."""

    def arguments(*transcripts, options=()):
        return [
            "distill", "train", "--student", played.base, *(x for one in transcripts for x in ("--transcript", one)),
            "--steps", 1, "--device", "cpu", "--force", *options, "--out", tmp_path / "student.safetensors",
        ]  # fmt: skip

    return arguments


def test_a_signed_transcript_is_the_same_and_says_who_signed(fedlpp, runner, publish, plain, key, learn, tmp_path):
    out, public = tmp_path / "signed.safetensors", key.with_suffix(".pub")
    made = fedlpp(*publish(out))
    assert made["signed_with"] == [FINGERPRINT]
    assert out.read_bytes() == plain.read_bytes()
    known = {"fingerprint": FINGERPRINT, "name": "north", "trusted": True}
    unknown = {"fingerprint": FINGERPRINT, "name": None, "trusted": False}
    assert fedlpp("verify", out, "--signer", public)["artifacts"][0]["signers"] == [known]
    assert fedlpp("verify", out)["artifacts"][0]["signers"] == fedlpp("inspect", out)["signers"] == [unknown]
    assert fedlpp("inspect", plain)["signers"] == []
    first = fedlpp(*learn(out, options=("--signer", public)))
    assert first["transcripts"][0]["signers"] == [known]
    second = fedlpp(*learn(plain))
    assert second["transcripts"][0]["signers"] == []
    assert first["sha256"] == second["sha256"]
    shown = runner.invoke(app, [*map(str, learn(out, options=("--signer", public)))]).stdout
    assert f"north ({FINGERPRINT[:12]})" in shown
    shown = runner.invoke(app, [*map(str, publish(out, "--force"))]).stdout
    assert "signed with" in shown
    assert FINGERPRINT[:12] in shown


def test_a_policy_names_whose_transcripts_are_taken_and_an_option_cannot_widen_it(
    call, signed, plain, key, learn, tmp_path
):
    policy, public = tmp_path / "client.toml", key.with_suffix(".pub")
    policy.write_text(f'max_steps = 1\nsigners = ["{signing_key(1).public.text} teacher", "{OTHER.line}"]\n')
    asked = ("--policy", policy)
    code, found = call(*learn(signed, options=asked))
    assert (code, found["transcripts"][0]["signers"][0]["name"]) == (0, "teacher")
    for transcripts, options in (
        ((plain,), asked),
        ((signed, plain), asked),  # one of several is not signed
        ((signed,), (*asked, "--signer", OTHER.text)),
    ):
        code, error = call(*learn(*transcripts, options=options))
        assert (code, error["code"]) == (10, "policy-signer")
    code, error = call(*learn(signed, options=(*asked, "--signer", signing_key(3).public.text)))
    assert (code, error["code"]) == (2, "usage")
    assert call(*learn(signed, options=(*asked, "--signer", public)))[0] == 0
    policy.write_text(f'signers = ["{OTHER.text}"]\n')
    code, error = call(*learn(signed), FEDLPP_POLICY=str(policy))
    assert (code, error["code"]) == (10, "policy-signer")


def test_what_is_not_as_it_was_signed_is_refused_everywhere(call, signed, plain, key, learn, tmp_path):
    raw = signed.read_bytes()
    calls = (["inspect", signed], ["verify", signed], [*learn(signed)])
    signed.write_bytes(raw.replace(b"north", b"south"))
    for arguments in calls:
        code, error = call(*arguments)
        assert (code, error["code"]) == (4, "artifact-signature")
        assert "does not fit the transcript" in error["message"]
    signed.write_bytes(raw)
    signatures_beside(signed).write_bytes(b"{}")
    for arguments in calls:
        code, error = call(*arguments)
        assert (code, error["code"]) == (4, "artifact-signature")
    code, error = call("verify", plain, "--signer", key.with_suffix(".pub"))
    assert (code, error["code"]) == (10, "policy-signer")
    assert error["hint"] == "ask the teacher for fedlpp distill publish --sign"
    assert not (tmp_path / "student.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "code", "name", "said"),
    [
        (["--sign", "north.pem"], 2, "usage", "there is no terminal to ask for it"),
        (["--sign", "north.pem", "--passphrase-file", "wrong"], 3, "input", "wrong passphrase"),
        (["--sign", "open.pem"], 7, "secrecy", "a private key that others may open"),
        (["--sign", "missing.pem"], 3, "input", "cannot be read"),
        (["--sign", "plain.pem", "--sign", "plain.pem"], 2, "usage", "the same key twice"),
        (["--passphrase-file", "passphrase"], 2, "usage", "goes with --sign"),
        (["--sign", "plain.pem"], 8, "output-exists", "t.safetensors.sig.json exists"),
    ],
)
def test_a_key_that_does_not_open_and_signatures_that_are_there_stop_everything(
    call, publish, key, tmp_path, monkeypatch, options, code, name, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong").write_text("wrong horse battery")
    (tmp_path / "t.safetensors.sig.json").write_text("somebody's")
    write_keys(tmp_path / "plain.pem", 2)
    write_keys(tmp_path / "open.pem", 3)
    (tmp_path / "open.pem").chmod(0o644)
    found, error = call(*publish("t.safetensors", *options, sign=False))
    assert (found, error["code"]) == (code, name)
    assert said in error["message"]
    assert not (tmp_path / "t.safetensors").exists()
    assert (tmp_path / "t.safetensors.sig.json").read_text() == "somebody's"


def test_no_byte_of_the_key_or_its_passphrase_is_in_what_is_made(signed):
    secret = private_key(1).private_bytes_raw()
    made = signed.read_bytes() + signatures_beside(signed).read_bytes()
    assert base64.b64encode(signing_key(1).public.raw) in made
    hidden = (secret, secret.hex().encode(), base64.b64encode(secret)[:42], PASSPHRASE.encode())
    assert [one for one in hidden if one in made] == []


def test_signatures_go_through_the_hub_with_their_transcript(
    call, fedlpp, publish, key, learn, played, tmp_path, monkeypatch
):
    with HubServer(tokens={"hf_owner": "acme"}) as hub:
        use_hub(monkeypatch, hub, tmp_path / "home", token="hf_owner")
        place, public = "hf://acme/logs/north.safetensors", key.with_suffix(".pub")
        first = fedlpp(*publish(place))
        assert base64.b64encode(signing_key(1).public.raw) in hub.file(
            "acme/logs", "main", "north.safetensors.sig.json"
        )
        assert fedlpp("verify", place, "--signer", public)["artifacts"][0]["signers"][0]["name"] == "north"
        assert fedlpp(*learn(place, options=("--signer", public)))["transcripts"][0]["signers"][0]["trusted"] is True
        code, error = call(*publish(place))
        assert (code, error["code"]) == (8, "output-exists")
        fedlpp(*publish(place, "--force", sign=False))
        assert fedlpp("inspect", place)["signers"] == []
        assert call("verify", place, "--signer", public)[1]["code"] == "policy-signer"
        assert fedlpp("inspect", first["path"])["signers"][0]["fingerprint"] == FINGERPRINT
