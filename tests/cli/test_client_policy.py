"""A client's own limits: every one of them is held against a package that asks for more, and one that does not."""

import hashlib
import json

import pytest
from support.forge import header_of, sha256_of
from support.parties import RECIPE

from fedlpp_cli import pack, quantize
from fedlpp_cli.cli.app import app


@pytest.fixture
def train(runner, played, tmp_path):
    def run(policy, *options, package=None, base=played.base, **environment):
        (tmp_path / "client.toml").write_text(policy)
        arguments = [
            "client-train", package or played.package(0), "--client", "a", "--data", played.data("a"), "--base", base,
            "--device", "cpu", "--out", tmp_path / "update.safetensors", *options,
        ]  # fmt: skip
        return runner.invoke(app, [str(argument) for argument in arguments], env=environment)

    return run


def problem(result):
    assert result.exit_code == 10, result.output
    return json.loads(result.stdout)["error"]


# played: 3 steps of 4 examples on 12 rows, round 0
@pytest.mark.parametrize(
    ("too_little", "enough", "message"),
    [
        ("max_steps = 2", "max_steps = 3", "max_steps is 2, it would be 3"),
        ("max_epochs = 0.5", "max_epochs = 1.0", "max_epochs is 0.5, it would be 1"),
        ("max_parameters = 100", "max_parameters = 1000000", "max_parameters is 100, it would be "),
        (f"federations = ['{'0' * 64}']", "", "is not in federations"),
        (f"bases = ['{'0' * 64}']", "", "is not in bases"),
        ("min_noise_multiplier = 0.5", "", "it would be trained without privacy for its examples"),
        ("max_epsilon = 8.0", "", "it would be trained without privacy for its examples"),
        ("max_delta = 1e-5", "", "it would be trained without privacy for its examples"),
    ],
)
def test_each_limit_refuses_more_and_allows_as_much(train, tmp_path, too_little, enough, message):
    policy = tmp_path / "client.toml"
    found = problem(train(too_little, "--policy", policy, "--json"))
    assert found["code"] == "policy"
    assert message in found["message"]
    assert not (tmp_path / "update.safetensors").exists()
    assert train(enough, "--policy", policy, "--dry-run").exit_code == 0


def test_a_round_after_the_last_allowed_one_is_refused(train, played, tmp_path):
    policy = tmp_path / "client.toml"
    quantize(played.master(1), out=tmp_path / "proxy.safetensors")
    pack(tmp_path / "proxy.safetensors", out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "releases.jsonl")
    assert train("max_rounds = 1", "--policy", policy, "--dry-run").exit_code == 0
    result = train("max_rounds = 1", "--policy", policy, "--dry-run", "--json", package=tmp_path / "package")
    assert "max_rounds is 1, it would be 2" in problem(result)["message"]


def test_federations_and_bases_are_known_by_digests_that_anybody_can_compute(train, played, tmp_path):
    policy = tmp_path / "client.toml"
    weights = hashlib.sha256((played.base / "model.safetensors").read_bytes()).hexdigest()
    federation = sha256_of(played.master(0))
    assert header_of(played.proxy(0)).spec.model.base.files["model.safetensors"] == weights
    text = f"federations = ['{federation}']\nbases = ['{weights}', '{'1' * 64}']\nmax_steps = 3\n"
    assert train(text, "--policy", policy).exit_code == 0


def test_everything_that_is_too_much_is_named_at_once_and_before_the_base_is_looked_for(train, tmp_path):
    policy = tmp_path / "client.toml"
    result = train(
        f"max_parameters = 1\nbases = ['{'0' * 64}']", "--policy", policy, "--json", base=tmp_path / "nowhere"
    )
    assert problem(result)["message"].count(";") == 1


def test_the_environment_can_name_the_file_so_that_nobody_forgets_it(train, tmp_path):
    assert train("max_steps = 1", FEDLPP_POLICY=str(tmp_path / "client.toml")).exit_code == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step = 2", "max_step"),
        ("max_steps = 0", "max_steps"),
        ("max_epsilon = 'eight'", "max_epsilon"),
        ("max_steps = ", "not a TOML file"),
    ],
)
def test_a_policy_that_cannot_be_enforced_stops_everything(train, tmp_path, text, message):
    result = train(text, "--policy", tmp_path / "client.toml", "--json")
    assert result.exit_code == 3
    assert message in json.loads(result.stdout)["error"]["message"]


def test_a_policy_that_is_not_there_stops_everything(train, tmp_path):
    result = train("", "--policy", tmp_path / "missing.toml")
    assert result.exit_code == 3
    assert "missing.toml" in result.output
