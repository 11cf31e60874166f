"""Privacy for examples, from the data holder's command to the owner's tables."""

import base64
import json

import pytest
from support.forge import header_of, sha256_of
from support.parties import Federation

from fedlpp_cli.cli.app import app
from fedlpp_cli.privacy.accountant import Spending, epsilon_of

NOISE = ("--noise-multiplier", 1.0)
KEY = bytes(range(100, 132))


@pytest.fixture
def fedlpp(runner):
    def run(*arguments):
        return runner.invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="module")
def federation(tmp_path_factory, llama):
    made = Federation(tmp_path_factory.mktemp("federation"), llama)
    made.init()
    made.send(0)
    return made


@pytest.fixture
def train(fedlpp, federation, tmp_path):
    """Client a, three steps of four of its twelve rows."""

    def run(*options, out="u", source=federation, number=0, client="a"):
        return fedlpp(
            "client-train", source.package(number), "--client", client, "--data", source.data(client), "--base",
            source.base, "--device", "cpu", "--out", tmp_path / out, *options,
        )  # fmt: skip

    return run


def data(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["data"]


def words(text):
    return " ".join(text.split())


def test_two_rounds_add_up_and_the_owner_gets_on_with_them(fedlpp, train, llama, tmp_path):
    federation = Federation(tmp_path / "run", llama)
    federation.init()
    ledgers = {client: tmp_path / f"{client}.budget" for client in federation.clients}
    told = {}
    for number in range(2):
        federation.send(number)
        for client, ledger in ledgers.items():
            options = [*NOISE, "--ledger", ledger, *(["--new-ledger"] if number == 0 else []), "--json"]
            out = federation.update(number, client)
            told[number, client] = data(train(*options, source=federation, number=number, client=client, out=out))
        federation.fold(number)
    first, second = told[0, "a"]["privacy"], told[1, "a"]["privacy"]
    assert first["epsilon"] == epsilon_of([Spending(1.0, 1 / 3, 3)], 1e-5)
    assert second["epsilon"] == epsilon_of([Spending(1.0, 1 / 3, 6)], 1e-5)
    assert header_of(federation.update(1, "a")).spec.privacy.epsilon == second["epsilon"]
    counted = data(fedlpp("budget", ledgers["a"], "--json"))
    assert (counted["epsilon"], counted["max_epsilon"], counted["left"]) == (second["epsilon"], None, None)
    assert [one["update"] for one in counted["charges"]] == [told[number, "a"]["sha256"] for number in range(2)]
    for command in ("log", "status", "verify"):
        result = fedlpp(command, federation.folder)
        assert result.exit_code == 0, result.stderr
        assert "None" not in result.stdout
    assert data(fedlpp("log", federation.folder, "--json"))["rounds"][1]["loss_first"] is None
    assert fedlpp("verify", federation.folder, "--rerun").exit_code == 0
    fold = [federation.master(1), *federation.updates(1), "--package", federation.package(1), "--out", tmp_path / "m"]
    result = fedlpp("aggregate", *fold)
    assert (result.exit_code, "None" in result.stdout) == (0, False)
    assert sha256_of(tmp_path / "m") == sha256_of(federation.master(2))


def test_the_table_says_what_was_promised(fedlpp, train, tmp_path):
    shown = train(*NOISE, "--ledger", tmp_path / "ledger", "--new-ledger", "--max-epsilon", 20).stdout
    epsilon = epsilon_of([Spending(1.0, 1 / 3, 3)], 1e-5)
    assert f"epsilon {epsilon:.4g} at delta 1e-05 with all that was charged before; noise 1 x 1" in words(shown)
    assert "loss" not in shown
    shown = fedlpp("budget", tmp_path / "ledger").stdout
    assert f"{epsilon:.4g} at delta 1e-05, for adding or removing one example" in words(shown)
    assert f"20, {20 - epsilon:.4g} left" in words(shown)


def test_the_plan_ends_where_it_was_meant_to(fedlpp, train, tmp_path):
    """Noise for three rounds at epsilon 6; the new ledger takes 6 for its budget."""
    plan = ["--dp-epsilon", 6, "--dp-rounds", 3, "--ledger", tmp_path / "ledger"]
    left = []
    for number in range(3):
        result = data(train(*plan, *(["--new-ledger"] if number == 0 else []), "--json", out=f"u{number}"))
        left.append(data(fedlpp("budget", tmp_path / "ledger", "--json"))["n_rounds_left"])
    assert left == [2, 1, 0]
    assert 5.9 < result["privacy"]["epsilon"] <= 6.0
    before = (tmp_path / "ledger").read_bytes()
    refused = train(*plan, "--json", out="u3")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (6, "gate-budget")
    assert ((tmp_path / "ledger").read_bytes(), (tmp_path / "u3").exists()) == (before, False)


def test_a_long_budget_is_counted_to_a_thousand(fedlpp, train, tmp_path):
    train("--noise-multiplier", 500, "--ledger", tmp_path / "ledger", "--new-ledger", "--max-epsilon", 8)
    assert data(fedlpp("budget", tmp_path / "ledger", "--json"))["n_rounds_left"] == 1000


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([*NOISE], 2, "--ledger is missing"),
        (["--ledger", "LEDGER"], 2, "go with privacy for examples"),
        (["--new-ledger"], 2, "go with privacy for examples"),
        ([*NOISE, "--ledger", "LEDGER"], 3, "no ledger is there"),
        ([*NOISE, "--dp-epsilon", 8, "--ledger", "LEDGER"], 3, "noise_multiplier, epsilon: set one of them"),
        (["--dp-delta", 1e-6, "--ledger", "LEDGER"], 3, "noise_multiplier, epsilon: set one of them"),
        ([*NOISE, "--dp-delta", 1, "--ledger", "LEDGER"], 3, "delta"),
        ([*NOISE, "--dp-rounds", 0, "--ledger", "LEDGER"], 3, "n_rounds"),
        (["--noise-multiplier", 0, "--ledger", "LEDGER"], 3, "noise_multiplier"),
        ([*NOISE, "--max-grad-norm", 0, "--ledger", "LEDGER"], 3, "max_grad_norm"),
        ([*NOISE, "--max-epsilon", 0, "--ledger", "LEDGER", "--new-ledger"], 2, "a number above 0 is needed"),
        ([*NOISE, "--ledger", "FOLDER", "--new-ledger"], 3, "a folder, a file is needed"),
    ],
)
def test_half_a_wish_is_refused(train, tmp_path, options, code, message):
    places = {"LEDGER": tmp_path / "ledger", "FOLDER": tmp_path}
    result = train(*(places.get(option, option) for option in options))
    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_federation_file_says_how_and_options_go_first(fedlpp, train, federation, tmp_path):
    (tmp_path / "f.toml").write_text("[privacy]\nepsilon = 8.0\ndelta = 1e-6\nmax_grad_norm = 0.5\n")
    ledger = ["--ledger", tmp_path / "ledger", "--new-ledger", "--json", "--dry-run", "--trial-steps", 0]
    found = data(train("-f", tmp_path / "f.toml", *ledger))["privacy"]
    assert (found["delta"], found["max_grad_norm"]) == (1e-6, 0.5)
    assert 7.9 < found["epsilon"] <= 8.0
    found = data(train("-f", tmp_path / "f.toml", "--noise-multiplier", 3, *ledger))["privacy"]
    assert (found["noise_multiplier"], found["delta"]) == (3.0, 1e-6)
    refused = train("-f", tmp_path / "f.toml")
    assert (refused.exit_code, "--ledger is missing" in refused.stderr) == (2, True)
    refused = fedlpp(
        "simulate", "-f", tmp_path / "f.toml", "--base", federation.base, "--data", federation.data("a"), "--clients",
        2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert (refused.exit_code, "[privacy]: a simulation's clients have no privacy" in refused.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_without_privacy_nothing_is_said_of_it(train, federation, tmp_path):
    assert data(train("--json"))["privacy"] is None
    assert "epsilon" not in train("--force").stdout
    assert header_of(tmp_path / "u").spec.privacy is None


def test_the_key_is_in_no_file_that_is_left(train, tmp_path, monkeypatch):
    monkeypatch.setattr("fedlpp_cli.steps.private_training.new_key", lambda: KEY)
    told = []
    for number in range(2):
        kept = ["--checkpoint", tmp_path / "c", "--checkpoint-every", 1, "--log", tmp_path / f"{number}.jsonl"]
        kept += ["--state-out", tmp_path / f"s{number}", "--ledger", tmp_path / "ledger", "--new-ledger"]
        told.append(train(*NOISE, *kept, *(["--json"] if number else []), out=f"u{number}"))
    assert [one.exit_code for one in told] == [0, 0]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["0.jsonl", "1.jsonl", "ledger", "s0", "s1", "u0", "u1"]
    spelled = [KEY, KEY.hex().encode(), base64.b64encode(KEY), str(list(KEY)).encode(), str([*KEY])[1:-1].encode()]
    everything = [path.read_bytes() for path in tmp_path.iterdir()] + [one.stdout.encode() for one in told]
    assert not any(word in content for word in spelled for content in everything)
    # Equal keys: the same run, which is charged once.
    assert (tmp_path / "ledger").read_text().count('"charge"') == 1


def test_a_budget_that_is_not_there(fedlpp, tmp_path):
    result = fedlpp("budget", tmp_path / "ledger")
    assert (result.exit_code, "no ledger is there" in result.stderr) == (3, True)
    (tmp_path / "ledger").write_text("{}\n")
    assert fedlpp("budget", tmp_path / "ledger").exit_code == 4
