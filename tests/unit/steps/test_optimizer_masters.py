"""Server optimizers through the real `aggregate`: formulas over rounds, state in masters, and where it must not be."""

import json
import struct

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from typer.testing import CliRunner

from fedlpp_cli import aggregate, evaluate, export, inspect, log, pack, quantize, status, verify
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import ArtifactError, LineageError
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec

BRIEF = TrainSpec(steps=2, batch_size=4, learning_rate=1e-2)
SETTINGS = {"server_learning_rate": 0.02, "beta1": 0.8, "beta2": 0.9, "tau": 1e-2}
MOMENTS = {
    "momentum": ("momentum",), "adagrad": ("momentum", "second_moment"), "adam": ("momentum", "second_moment"),
    "yogi": ("momentum", "second_moment"),
}  # fmt: skip


def by_hand(optimizer, theta, m, v, d):
    """One step in numpy, from the formulas of the papers."""
    eta, beta1, beta2, tau = SETTINGS.values()
    if optimizer == "momentum":
        m = beta1 * m + d
        return theta + eta * m, m, v
    m = beta1 * m + (1 - beta1) * d
    if optimizer == "adagrad":
        v = v + d**2
    elif optimizer == "adam":
        v = beta2 * v + (1 - beta2) * d**2
    else:
        v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
    return theta + eta * m / (np.sqrt(v) + tau), m, v


def arrays(path):
    return {name: tensor.double().numpy() for name, tensor in read_all(path).items()}


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_three_rounds_are_what_the_formulas_say(llama, tmp_path, optimizer):
    spec = AggregateSpec(server_optimizer=optimizer, **SETTINGS)
    federation = Federation(tmp_path / "run", llama, train=BRIEF, aggregate=spec)
    federation.play(3)
    thetas = arrays(federation.master(0))
    first = {name: np.zeros_like(theta) for name, theta in thetas.items()}
    second = {name: np.full_like(theta, SETTINGS["tau"] ** 2) for name, theta in thetas.items()}
    for number in range(3):
        updates = [arrays(path) for path in federation.updates(number)]
        for name in thetas:
            d = sum(update[name] for update in updates) / len(updates)
            thetas[name], first[name], second[name] = by_hand(optimizer, thetas[name], first[name], second[name], d)
        found, header = arrays(federation.master(number + 1)), header_of(federation.master(number + 1))
        assert header.spec.optimizer_steps == number + 1
        assert header.spec.aggregate == spec
        assert len(found) == len(thetas) * (1 + len(MOMENTS[optimizer]))
        for name, theta in thetas.items():
            np.testing.assert_allclose(found[name], theta, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(found[f"{name}.momentum"], first[name], rtol=1e-5, atol=1e-8)
            if "second_moment" in MOMENTS[optimizer]:
                np.testing.assert_allclose(found[f"{name}.second_moment"], second[name], rtol=1e-5)


def fold(federation, out, number=0, updates=None, **options):
    return aggregate(
        federation.master(number), updates or federation.updates(number), packages=[federation.package(number)],
        out=out, spec=AggregateSpec(**options),
    )  # fmt: skip


def test_momentum_without_memory_is_sgd(played, tmp_path):
    fold(played, tmp_path / "m", server_optimizer="momentum", beta1=0.0)
    plain, found = read_all(played.master(1)), read_all(tmp_path / "m")
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_equal_inputs_give_equal_bytes_in_any_order(played, tmp_path, optimizer):
    digests = {
        fold(played, tmp_path / str(i), updates=order, server_optimizer=optimizer, **SETTINGS).sha256
        for i, order in enumerate((played.updates(0), played.updates(0)[::-1], played.updates(0)))
    }
    assert len(digests) == 1
    assert sha256_of(tmp_path / "0") in digests


@pytest.fixture(scope="module")
def adaptive(llama, tmp_path_factory):
    """Two rounds with Adam. Read only."""
    spec = AggregateSpec(server_optimizer="adam", **SETTINGS)
    federation = Federation(tmp_path_factory.mktemp("adaptive"), llama, train=BRIEF, aggregate=spec)
    federation.play(2)
    federation.send(2)
    return federation


def test_the_state_of_another_optimizer_is_left_behind(adaptive, tmp_path):
    """What comes out is as if there had been none; the settings of one optimizer may change and its state stays."""
    bare = {name: value for name, value in read_all(adaptive.master(1)).items() if name.endswith(("_A", "_B"))}
    for other in ("momentum", "yogi"):
        result = fold(adaptive, tmp_path / other, 1, server_optimizer=other, **SETTINGS)
        assert result.optimizer_steps == 1
        d = {name: (arrays(adaptive.update(1, "a"))[name] + arrays(adaptive.update(1, "b"))[name]) / 2 for name in bare}
        found = arrays(tmp_path / other)
        for name, theta in bare.items():
            start = np.zeros(theta.shape), np.full(theta.shape, SETTINGS["tau"] ** 2)
            expected, *_ = by_hand(other, theta.double().numpy(), *start, d[name])
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7)
    plain = fold(adaptive, tmp_path / "sgd", 1)
    assert (plain.optimizer_steps, set(read_all(tmp_path / "sgd"))) == (0, set(bare))
    tuned = fold(adaptive, tmp_path / "tuned", 1, server_optimizer="adam", **{**SETTINGS, "beta1": 0.5})
    assert tuned.optimizer_steps == 2


def test_the_median_change_is_that_of_the_mean(adaptive, tmp_path):
    result = fold(adaptive, tmp_path / "m", 1, server_optimizer="adam", **SETTINGS)
    means = [(a + b) / 2 for a, b in zip(*(arrays(path).values() for path in adaptive.updates(1)), strict=True)]
    exact = np.median(np.abs(np.concatenate([mean.reshape(-1) for mean in means])))
    assert result.median_change == pytest.approx(exact, rel=0.06)
    assert read_report(tmp_path / "m.report.json").header.spec.median_change == result.median_change
    assert fold(adaptive, tmp_path / "s", 1).median_change is None


# A number that training does not come upon, in what an optimizer remembers.
SECRET = 0.12345678806304932
PATTERN = struct.pack("<f", SECRET) * 2


@pytest.fixture
def planted(adaptive, tmp_path):
    """The master of round 2 with that number all over its state, in a run of its own."""
    run = Federation(tmp_path / "run", adaptive.base, train=BRIEF, aggregate=adaptive.aggregate)

    def plant(tensors):
        return {
            name: torch.full_like(value, SECRET) if name.endswith(("moment", "momentum")) else value
            for name, value in tensors.items()
        }

    run.round(2).mkdir(parents=True)
    reforge(adaptive.master(2), run.master(2), kind=MasterHeader, change=plant)
    assert PATTERN in run.master(2).read_bytes()
    return run


def holds_none(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        assert PATTERN not in content, file
        assert b".momentum" not in content, file
        assert b".second_moment" not in content, file


@pytest.mark.parametrize("bits", ["3", "8", "full"])
def test_no_proxy_package_update_or_report_holds_any_of_a_state(planted, adaptive, tmp_path, bits):
    planted.quantize = QuantSpec(bits=bits)
    planted.send(2)
    for client in planted.clients:
        planted.train_client(2, client)
    for path in (planted.proxy(2), planted.package(2), *planted.updates(2)):
        holds_none(path)
    if bits == "3":  # the state decides nothing of what clients see
        mine, theirs = read_all(planted.proxy(2)), read_all(adaptive.proxy(2))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    planted.fold(2)
    holds_none(planted.round(3) / "master.report.json")
    result = evaluate([planted.master(2)], base=planted.base, data=planted.data("b"), device="cpu", out=tmp_path / "e")
    assert [row.model for row in result.rows][-1] == "central"
    holds_none(tmp_path / "e")


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_no_export_holds_any_of_a_state(planted, adaptive, tmp_path, form):
    export(planted.master(2), out=tmp_path / "a", format=form, base=planted.base)
    export(adaptive.master(2), out=tmp_path / "b", format=form, base=planted.base)
    holds_none(tmp_path / "a")
    for file in (tmp_path / "b").rglob("*.safetensors"):
        assert (tmp_path / "a" / file.relative_to(tmp_path / "b")).read_bytes() == file.read_bytes()


def test_every_command_works_on_a_master_with_a_state(adaptive, tmp_path):
    n_values = sum(value.numel() for value in read_all(adaptive.master(0)).values())
    assert inspect(adaptive.master(2)).n_parameters == n_values
    planned = quantize(adaptive.master(2), out=tmp_path / "p", dry_run=True)
    assert (planned.n_parameters, sum(group.n_parameters for group in planned.groups)) == (n_values, n_values)
    assert read_report(adaptive.round(2) / "master.report.json").header.spec.n_parameters == n_values
    assert verify([adaptive.folder], complete=True).missing == 0
    assert status(adaptive.folder).round == 2
    assert [entry.round for entry in log(adaptive.folder).rounds] == [0, 1, 2]
    pack(adaptive.proxy(2), out=tmp_path / "package", train=BRIEF, ledger=tmp_path / "ledger")


def test_a_state_that_the_header_does_not_announce_stops_every_command(planted, adaptive, tmp_path):
    """Above all those that would send it."""
    header = header_of(planted.master(2))
    for spec in (replace(header.spec, optimizer_steps=0), replace(header.spec, aggregate=AggregateSpec())):
        odd = reforge(planted.master(2), tmp_path / "odd.safetensors", kind=MasterHeader, spec=spec)
        calls = {
            "quantize": lambda odd=odd: quantize(odd, out=tmp_path / "proxy"),
            "export": lambda odd=odd: export(odd, out=tmp_path / "adapter"),
            "inspect": lambda odd=odd: inspect(odd),
            "verify": lambda odd=odd: verify([odd]),
            "evaluate": lambda odd=odd: evaluate([odd], base=adaptive.base, data=adaptive.data("a"), device="cpu"),
        }
        for call in calls.values():
            with pytest.raises(ArtifactError, match="the header announces none"):
                call()
        odd.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_verify_counts_the_steps(adaptive, tmp_path):
    header = header_of(adaptive.master(2))
    forged = reforge(
        adaptive.master(2), tmp_path / "f.safetensors", kind=MasterHeader, spec=replace(header.spec, optimizer_steps=7)
    )
    with pytest.raises(LineageError, match="its optimizer has made 7 steps; after its master that is 2"):
        verify([adaptive.master(1), forged])


def test_the_command_line_says_what_the_optimizer_did(adaptive, tmp_path):
    call = [
        "aggregate", adaptive.master(1), *adaptive.updates(1), "--package", adaptive.package(1), "--out",
        tmp_path / "next.safetensors",
    ]  # fmt: skip

    def run(*options):
        return CliRunner().invoke(app, [str(one) for one in (*call, *options, "--force")])

    adam = ["--server-optimizer", "adam", "--beta1", 0.8, "--beta2", 0.9, "--tau", 0.01]
    shown = run(*adam, "--server-learning-rate", 0.02).stdout
    assert "optimizer  adam, step 2; median change 0.0" in shown
    assert "tau 0.01" in shown
    assert sha256_of(tmp_path / "next.safetensors") == sha256_of(adaptive.master(2))
    assert "momentum, step 1, which starts its state" in run("--server-optimizer", "momentum").stdout
    assert "optimizer" not in run().stdout
    refused = run(*adam)
    assert refused.exit_code == 2
    assert "--server-learning-rate is missing: adam moves every weight by about that much a round" in refused.stderr
    refused = run("--server-optimizer", "adam", "--server-learning-rate", 0.1, "--update-rule", 2)
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert "server_optimizer: adam goes with update rule 1, not 2" in refused.stderr
    assert run("--server-optimizer", "lion").exit_code == 2
    (tmp_path / "f.toml").write_text('[aggregate]\nserver_optimizer = "yogi"\nserver_learning_rate = 0.03\n')
    found = json.loads(run("-f", tmp_path / "f.toml", "--tau", 0.1, "--json").stdout)["data"]
    assert (found["aggregate"]["server_optimizer"], found["aggregate"]["tau"]) == ("yogi", 0.1)
    assert (found["optimizer_steps"], found["median_change"] > 0) == (1, True)
