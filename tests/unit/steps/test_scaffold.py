"""SCAFFOLD through the steps: what lies where, what is the same on both sides, what is refused, what it gives away."""

import json
import stat
import struct

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import aggregate, client_train, evaluate, export, inspect, log, pack, quantize, status, verify
from fedlpp_cli.adapters.proxy_tensors import read_component, read_control
from fedlpp_cli.artifact.folder import CARD
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import (
    ArtifactError,
    GateError,
    LayoutError,
    LineageError,
    RerunError,
    SettingsError,
    UsageError,
)
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader, StateHeader, UpdateHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec
from fedlpp_cli.training.schedule import learning_rate_sum

PLAIN = TrainSpec(steps=4, batch_size=4, optimizer="sgd", learning_rate=0.3, weight_decay=0.0, schedule="linear")
SCAFFOLD = replace(PLAIN, control_variates=True)
RATE_SUM = learning_rate_sum(SCAFFOLD, 4)
FULL, FOUR = QuantSpec(bits="full"), QuantSpec(bits="4", block=32)
FIRST = "model.layers.0.mlp.down_proj.lora_A"


def make(folder, base, **options):
    options = {"train": SCAFFOLD, "keep_states": True, "quantize": FULL, **options}
    return Federation(folder, base, **options)


@pytest.fixture(scope="module")
def full(tmp_path_factory, llama):
    """Three rounds in full precision, and what is sent in the next one. Read only."""
    federation = make(tmp_path_factory.mktemp("full"), llama)
    federation.play(3)
    federation.send(3)
    return federation


@pytest.fixture(scope="module")
def rounded(tmp_path_factory, llama):
    """The same with 3-bit proxies, 4-bit updates and error feedback. Read only."""
    federation = make(tmp_path_factory.mktemp("rounded"), llama, quantize=QuantSpec(), round_updates=FOUR)
    federation.play(3)
    federation.send(3)
    return federation


def controls(path):
    return {
        name.removesuffix(".control"): value.double()
        for name, value in read_all(path).items()
        if name.endswith(".control")
    }


def norm(values):
    return sum(value.double().square().sum().item() for value in values.values()) ** 0.5


def train(federation, number, out, **options):
    arguments = {
        "client": "a", "data": federation.data("a"), "base": federation.base, "device": "cpu",
        "state": federation.state(number - 1, "a") if number else None, **options,
    }  # fmt: skip
    return client_train(arguments.pop("package", federation.package(number)), out=out, **arguments)


def fold(federation, number, out, updates=None, packages=None, **options):
    return aggregate(
        federation.master(number), updates or federation.updates(number),
        packages=packages or [federation.package(number)], out=out, spec=AggregateSpec(**options),
    )  # fmt: skip


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# What lies where


def test_a_first_round_trains_as_without_and_sends_nothing_more(full, llama, tmp_path):
    plain = Federation(tmp_path, llama, train=PLAIN, quantize=FULL)
    plain.init()
    plain.send(0)
    for client in plain.clients:
        plain.train_client(0, client)
        found, expected = read_all(full.update(0, client)), read_all(plain.update(0, client))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert full.proxy(0).read_bytes() == plain.proxy(0).read_bytes()
    plain.fold(0)
    found, expected = read_all(full.master(1)), read_all(plain.master(1))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found.keys() == expected.keys() | {f"{name}.control" for name in expected}


def test_later_rounds_do_not(full, tmp_path):
    """The same proxy, trained without corrections."""
    bare = reforge(
        full.proxy(1), tmp_path / "proxy", kind=ProxyHeader,
        spec=replace(header_of(full.proxy(1)).spec, control_variates=False),
        change=lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(".control")},
    )  # fmt: skip
    pack(bare, out=tmp_path / "package", train=PLAIN)
    train(full, 1, tmp_path / "u", package=tmp_path / "package", state=None)
    found, plain = read_all(full.update(1, "a")), read_all(tmp_path / "u")
    assert found.keys() == plain.keys()
    assert not torch.equal(found[FIRST], plain[FIRST])


@pytest.mark.parametrize("kind", ["full", "rounded"])
def test_every_file_says_what_it_holds_and_no_more_travels_up(kind, request):
    federation = request.getfixturevalue(kind)
    components = set(read_all(federation.master(0)))
    for number in range(3):
        assert set(controls(federation.master(number))) == (components if number else set())
        assert header_of(federation.master(number)).spec.control_variates is bool(number)
        assert header_of(federation.proxy(number)).spec.control_variates is bool(number)
        state = federation.state(number, "a")
        assert set(controls(state)) == components
        assert set(read_all(state)) == {f"{n}.{what}" for n in components for what in ("residual", "control")}
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        update = header_of(federation.update(number, "a"))
        assert update.spec.control_variates
        assert not any(".control" in name for name in read_all(federation.update(number, "a")))
    assert verify([federation.folder], complete=True, rerun=True).missing == 0


# What is the same on both sides


@pytest.mark.parametrize("kind", ["full", "rounded"])
def test_the_owners_is_the_mean_of_the_clients_own(kind, request):
    """To float32 accuracy, and rounding neither of updates nor of the proxy takes anything from that."""
    federation = request.getfixturevalue(kind)
    for number in range(3):
        owner = controls(federation.master(number + 1))
        a, b = (controls(federation.state(number, client)) for client in ("a", "b"))
        for name, value in owner.items():
            assert torch.allclose(value, (a[name] + b[name]) / 2, atol=1e-6, rtol=0)
        assert norm(owner) > 0.01


@pytest.mark.parametrize("kind", ["full", "rounded"])
def test_a_clients_own_follows_from_the_package_and_from_what_it_sent(kind, request):
    federation = request.getfixturevalue(kind)
    with (
        TensorFile(federation.proxy(2), ProxyHeader) as proxy,
        TensorFile(federation.update(2, "a"), UpdateHeader) as update,
    ):
        from fedlpp_cli.adapters.proxy_tensors import read_update

        before, after = (controls(federation.state(number, "a")) for number in (1, 2))
        for name, shape in proxy.header.spec.shapes.items():
            sent = read_update(update, name, shape).double()
            expected = before[name] - read_control(proxy, name).double() - sent / RATE_SUM
            assert torch.allclose(after[name], expected, atol=1e-7)


def test_clients_who_pause_keep_theirs_and_the_owner_counts_them(llama, tmp_path):
    """Of four clients two take part in each round."""
    federation = make(
        tmp_path, llama, clients=("a", "b", "c", "d"), aggregate=AggregateSpec(n_population=4), quantize=QuantSpec()
    )
    federation.init()
    last = {}
    for number, chosen in enumerate([("a", "b"), ("b", "c"), ("a", "c")]):
        federation.send(number)
        for client in chosen:
            federation.train_client(number, client, state=last.get(client))
            last[client] = federation.state(number, client)
        result = federation.fold(number, [federation.update(number, client) for client in chosen])
        assert result.aggregate.n_population == 4
    kept = [controls(path) for path in last.values()]
    assert len(kept) == 3  # d's are zeros
    for name, value in controls(federation.master(3)).items():
        assert torch.allclose(value, sum(one[name] for one in kept) / 4, atol=1e-6, rtol=0)


def test_whoever_comes_later_is_counted_from_then_on_and_who_stays_away_still_is(llama, tmp_path):
    federation = make(tmp_path, llama, clients=("a", "b", "c"))
    federation.init()
    last = {}
    for number, chosen in enumerate([("a", "b"), ("a",), ("a", "b", "c"), ("c",)]):
        federation.send(number)
        for client in chosen:
            federation.train_client(number, client, state=last.get(client))
            last[client] = federation.state(number, client)
        result = federation.fold(number, [federation.update(number, client) for client in chosen])
        n_clients = len(last)
        assert header_of(federation.master(number + 1)).spec.aggregate.n_population == n_clients
        assert result.aggregate.n_population == n_clients
        kept = [controls(path) for path in last.values()]
        for name, value in controls(federation.master(number + 1)).items():
            assert torch.allclose(value, sum(one[name] for one in kept) / n_clients, atol=1e-6, rtol=0)
    assert verify([federation.folder], complete=True, rerun=True).missing == 0


def moved(federation, n_clients, mean):
    """The owner's variates of round 2 by the formula, where two clients had been counted and c was sent as it is."""
    before, population = controls(federation.master(1)), max(2, n_clients)
    return {name: (2 * c - n_clients * (c + mean[name].double() / RATE_SUM)) / population for name, c in before.items()}


def test_what_a_rule_keeps_out_of_the_adapter_it_keeps_out_of_the_variates(full, tmp_path):
    """The update of a, twice it, and an enormous one the other way: the median is that of a."""
    spec = header_of(full.update(1, "a")).spec
    updates = [full.update(1, "a"), tmp_path / "b", tmp_path / "c"]
    for path, client, factor in ((updates[1], "b", 2.0), (updates[2], "c", -1e6)):
        reforge(
            full.update(1, "a"), path, spec=replace(spec, client=client),
            change=lambda tensors, factor=factor: {name: factor * value for name, value in tensors.items()},
        )  # fmt: skip
    fold(full, 1, tmp_path / "median", updates, rule="median")
    found, expected = controls(tmp_path / "median"), moved(full, 3, read_all(updates[0]))
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    fold(full, 1, tmp_path / "mean", updates)
    assert norm(controls(tmp_path / "mean")) > 1e4 * norm(expected)


def test_clipping_holds_for_both(full, tmp_path):
    size = header_of(full.update(1, "a")).spec.metrics.update_norm
    fold(full, 1, tmp_path / "half", [full.update(1, "a")], clip_norm=size / 2)
    expected = moved(full, 1, {name: value / 2 for name, value in read_all(full.update(1, "a")).items()})
    for name, value in controls(tmp_path / "half").items():
        assert torch.allclose(value, expected[name], atol=1e-5)


def test_a_server_optimizer_takes_the_same_mean(full, tmp_path):
    fold(full, 1, tmp_path / "m", server_optimizer="momentum", beta1=0.5)
    found, plain = read_all(tmp_path / "m"), read_all(full.master(2))
    assert all(torch.equal(found[f"{name}.control"], plain[f"{name}.control"]) for name in read_all(full.master(0)))
    assert torch.equal(found[f"{FIRST}.momentum"] + read_all(full.master(1))[FIRST], found[FIRST])
    assert f"{FIRST}.momentum" in found


def test_plain_rounds_may_come_before(llama, tmp_path):
    """States with residuals alone stand for zeros."""
    federation = make(tmp_path, llama, train=PLAIN, round_updates=FOUR)
    federation.play(1)
    federation.train = SCAFFOLD
    federation.send(1)
    for client in federation.clients:
        federation.train_client(1, client)
    federation.fold(1)
    a, b = (controls(federation.state(1, client)) for client in ("a", "b"))
    for name, value in controls(federation.master(2)).items():
        assert torch.allclose(value, (a[name] + b[name]) / 2, atol=1e-6, rtol=0)
    assert verify([federation.folder], complete=True, rerun=True).missing == 0


# What reads them


def test_proxies_count_both_and_commands_keep_them_apart(rounded, tmp_path):
    n_values = sum(value.numel() for value in read_all(rounded.master(0)).values())
    first, later = inspect(rounded.proxy(0)), inspect(rounded.proxy(1))
    assert (first.n_parameters, later.n_parameters) == (n_values, n_values)
    assert first.bits_per_parameter == later.bits_per_parameter
    assert sum(group.n_parameters for group in later.groups) == 2 * n_values
    assert sum(group.n_bytes for group in later.groups) == 2 * sum(group.n_bytes for group in first.groups)
    assert inspect(rounded.master(2)).n_parameters == inspect(rounded.state(2, "a")).n_parameters == n_values
    planned, before = (quantize(rounded.master(number), out=tmp_path / "p", dry_run=True) for number in (1, 0))
    assert (planned.control_variates, before.control_variates) == (True, False)
    assert (planned.n_bytes, planned.n_parameters) == (2 * before.n_bytes, n_values)
    assert planned.bits_per_parameter == before.bits_per_parameter
    assert all(group.measured_error > 0 for group in planned.groups)
    found = status(rounded.folder)
    assert (found.round, "--state-out" in found.next) == (3, True)
    assert [entry.round for entry in log(rounded.folder).rounds] == [0, 1, 2, 3]
    rows = evaluate([rounded.master(3), rounded.proxy(3)], base=rounded.base, data=rounded.data("b"), device="cpu").rows
    assert {row.model for row in rows} == {"base", "proxy", "central"}


def test_the_card_and_the_command_line_say_so(rounded, runner, tmp_path):
    card = (rounded.package(1) / CARD).read_text()
    assert "sgd, control variates |" in card
    assert "--out update.safetensors --state-out state.safetensors" in card
    assert "corrected by control variates" in card
    call = [
        "aggregate",
        rounded.master(1),
        *rounded.updates(1),
        "--package",
        rounded.package(1),
        "--out",
        tmp_path / "m",
    ]
    shown = runner.invoke(app, [str(one) for one in call] + ["--n-population", "5"]).stdout
    assert "control variates  of 5 clients" in shown
    planned = runner.invoke(app, ["quantize", str(rounded.master(1)), "--dry-run", "--out", "p"]).stdout
    assert "parameters and their control variates" in planned
    assert "lora_A.control" in planned


def test_an_export_has_none_of_them(rounded, tmp_path):
    bare = reforge(
        rounded.master(2), tmp_path / "bare", kind=MasterHeader,
        spec=replace(header_of(rounded.master(2)).spec, control_variates=False),
        change=lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(".control")},
    )  # fmt: skip
    for form in ("peft", "merged"):
        export(rounded.master(2), out=tmp_path / form, format=form, base=rounded.base)
        export(bare, out=tmp_path / f"{form}-bare", format=form, base=rounded.base)
        for name in files_in(tmp_path / form):
            assert (tmp_path / form / name).read_bytes() == (tmp_path / f"{form}-bare" / name).read_bytes()


# What is refused


def test_settings_that_do_not_go_together(runner, full, tmp_path):
    for options, message in (
        ({"steps": None, "epochs": 1.0}, "SCAFFOLD goes with steps"),
        ({"proximal_mu": 0.1}, "FedProx and SCAFFOLD"),
        ({"optimizer": "adamw"}, "goes with optimizer sgd"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SCAFFOLD, **options)
    call = ["pack", full.proxy(0), "--control-variates", "--out", tmp_path / "p"]
    found = runner.invoke(app, [str(one) for one in call])
    assert (found.exit_code, found.stderr.count("\n"), files_in(tmp_path)) == (SettingsError.exit_code, 1, [])


def test_without_a_place_for_the_state_nothing_is_trained(full, tmp_path):
    for options in ({}, {"dry_run": True}):
        with pytest.raises(UsageError, match=r"--state-out is missing: .* asks for control variates") as caught:
            train(full, 1, tmp_path / "u", data=tmp_path / "no data is read", **options)
        assert "--state" in caught.value.hint
    assert files_in(tmp_path) == []


STATES = {
    "another client": (LineageError, "of client 'b', not of 'a'", {"spec": {"client": "b"}}),
    "one missing": (LayoutError, "control' is missing", {"change": lambda t: t.pop(f"{FIRST}.control")}),
    "one more": (LayoutError, "is not part", {"change": lambda t: t.update({"x.control": torch.ones(1)})}),
    "none announced": (LayoutError, "control' is not part", {"spec": {"control_variates": False}}),
    "another shape": (LayoutError, r"\[3\]", {"change": lambda t: t.update({f"{FIRST}.control": torch.ones(3)})}),
    "not finite": (GateError, "control: element", {"change": lambda t: t[f"{FIRST}.control"][0, 2].fill_(torch.nan)}),
}  # fmt: skip


@pytest.mark.parametrize("problem", STATES)
def test_a_state_that_does_not_fit_is_refused_before_the_training(full, tmp_path, problem):
    error, message, forgery = STATES[problem]

    def change(tensors):
        forgery.get("change", lambda _: None)(tensors)
        return tensors

    spec = replace(header_of(full.state(0, "a")).spec, **forgery.get("spec", {}))
    bad = reforge(full.state(0, "a"), tmp_path / "bad", kind=StateHeader, change=change, spec=spec)
    with pytest.raises(error, match=message):
        train(full, 1, tmp_path / "u", state=bad, state_out=tmp_path / "s", data=tmp_path / "no data is read")
    assert files_in(tmp_path) == ["bad"]
    if problem not in {"another client", "not finite", "one more"}:
        with pytest.raises(ArtifactError, match="a state holds residuals"):
            verify([bad])


def test_variates_from_before_the_first_of_them_belong_to_another_history(full, rounded, tmp_path):
    early = reforge(full.state(0, "a"), tmp_path / "s", kind=StateHeader, federation=sha256_of(rounded.master(0)))
    late = reforge(rounded.proxy(0), tmp_path / "proxy", kind=ProxyHeader, round=7)
    pack(late, out=tmp_path / "package", train=SCAFFOLD)
    with pytest.raises(LineageError, match="it has control variates, the package is of before the first of them"):
        train(rounded, 1, tmp_path / "u", package=tmp_path / "package", state=early, state_out=tmp_path / "t")


def test_once_there_they_are_asked_for(full, tmp_path):
    with pytest.raises(UsageError, match="--control-variates is missing: this federation has them since an earlier"):
        pack(full.proxy(1), out=tmp_path / "package", train=PLAIN, dry_run=True)


def test_a_package_cannot_carry_them_for_nothing(full, tmp_path):
    """Whoever made it: the client does not begin."""
    import shutil

    shutil.copytree(full.package(1), tmp_path / "package")
    manifest = tmp_path / "package" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"control_variates":true', '"control_variates":false'))
    for call in (
        lambda: train(full, 1, tmp_path / "u", package=tmp_path / "package", state_out=tmp_path / "s"),
        lambda: verify([tmp_path / "package"]),
    ):
        with pytest.raises(LineageError, match="its proxy holds control variates, its recipe does not ask for them"):
            call()


def test_populations_that_cannot_be(full, played, tmp_path):
    with pytest.raises(UsageError, match="--n-population 1: there are 2 updates"):
        fold(full, 1, tmp_path / "m", n_population=1)
    with pytest.raises(UsageError, match="--n-population 1: it was 2, and who has left counts"):
        fold(full, 1, tmp_path / "m", full.updates(1)[:1], n_population=1)
    with pytest.raises(UsageError, match="--n-population 9: the package asks for no control variates"):
        fold(played, 0, tmp_path / "m", n_population=9)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "recipe", [PLAIN, replace(SCAFFOLD, steps=5), replace(SCAFFOLD, learning_rate=0.2)], ids=["none", "steps", "rate"]
)
def test_the_packages_of_a_round_ask_for_the_same(full, tmp_path, recipe):
    pack(full.proxy(0), out=tmp_path / "package", train=recipe, client="b")
    train(full, 0, tmp_path / "b", client="b", package=tmp_path / "package", state_out=tmp_path / "s")
    with pytest.raises(UsageError, match="with control variates all packages of a round"):
        fold(full, 0, tmp_path / "m", [full.update(0, "a"), tmp_path / "b"], [full.package(0), tmp_path / "package"])


def test_the_proxy_of_a_round_holds_what_the_master_does(full, tmp_path):
    bare = reforge(
        full.proxy(1), tmp_path / "proxy", kind=ProxyHeader,
        spec=replace(header_of(full.proxy(1)).spec, control_variates=False),
        change=lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(".control")},
    )  # fmt: skip
    pack(bare, out=tmp_path / "package", train=SCAFFOLD)
    with pytest.raises(LineageError, match="one has control variates, the other has none"):
        fold(full, 1, tmp_path / "m", packages=[tmp_path / "package"])
    with pytest.raises(LineageError, match=r"it has no control variates, .* has"):
        verify([full.master(1), bare])


UPDATES = {
    "a control tensor": ("lineage-layout", {"change": lambda t: {**t, f"{FIRST}.control": torch.ones(4, 32)}}),
    "a control tensor for a component": (
        "lineage-layout", {"change": lambda t: {f"{n}.control" if n == FIRST else n: v for n, v in t.items()}},
    ),
    "a component missing": ("lineage-layout", {"change": lambda t: {n: v for n, v in t.items() if n != FIRST}}),
    "another shape": ("lineage-layout", {"change": lambda t: {**t, FIRST: torch.ones(3)}}),
    "a number that is none": ("gate-not-finite", {"change": lambda t: {**t, FIRST: t[FIRST] + torch.nan}}),
    "trained without": ("lineage", {"spec": {"control_variates": False}}),
    "of other steps": ("lineage", {"metrics": {"n_steps": 3}}),
}  # fmt: skip


@pytest.mark.parametrize("problem", UPDATES)
def test_an_update_that_is_no_answer_is_refused_by_the_command(full, runner, tmp_path, problem):
    code, forgery = UPDATES[problem]
    spec = header_of(full.update(1, "b")).spec
    spec = replace(spec, metrics=replace(spec.metrics, **forgery.get("metrics", {})), **forgery.get("spec", {}))
    bad = reforge(full.update(1, "b"), tmp_path / "bad", change=forgery.get("change", lambda t: t), spec=spec)
    call = [
        "aggregate", full.master(1), full.update(1, "a"), bad, "--package", full.package(1), "--out", tmp_path / "m",
        "--json",
    ]  # fmt: skip
    found = runner.invoke(app, [str(one) for one in call])
    assert json.loads(found.stdout)["error"]["code"] == code
    assert files_in(tmp_path) == ["bad"]
    left = json.loads(runner.invoke(app, [str(one) for one in (*call, "--min-clients", 1, "--n-population", 2)]).stdout)
    assert [one["code"] for one in left["data"]["rejected"]] == [code]


def test_a_master_with_other_variates_does_not_come_out_again(full, tmp_path):
    def change(tensors):
        tensors[f"{FIRST}.control"].view(-1)[0] += 1e-3
        return tensors

    forged = reforge(full.master(2), tmp_path / "m", kind=MasterHeader, change=change)
    with pytest.raises(RerunError, match=r"tensor .*control differ"):
        verify([full.master(1), full.package(1), *full.updates(1), forged], rerun=True)


def test_a_master_with_variates_that_its_header_does_not_announce_is_refused(full, tmp_path):
    spec = header_of(full.master(2)).spec
    odd = reforge(full.master(2), tmp_path / "m", kind=MasterHeader, spec=replace(spec, control_variates=False))
    for call in (lambda: quantize(odd, out=tmp_path / "p"), lambda: verify([odd]), lambda: inspect(odd)):
        with pytest.raises(ArtifactError, match=r"control' .* the header announces none"):
            call()


# What it gives away

# A number that training does not come upon.
SECRET = 0.12345678806304932
PATTERN = struct.pack("<f", SECRET) * 2


@pytest.mark.parametrize("bits", ["3", "8"])
def test_no_package_holds_the_owners_variates_as_they_are(full, tmp_path, bits):
    run = make(tmp_path / "run", full.base, quantize=QuantSpec(bits=bits))
    run.round(2).mkdir(parents=True)

    def plant(tensors):
        """Between other numbers, so that it is no block's largest."""
        for name in tensors:
            if name.endswith(".control"):
                flat = tensors[name].view(-1)
                flat[:] = SECRET
                flat[::32] = 1.0
        return tensors

    reforge(full.master(2), run.master(2), kind=MasterHeader, change=plant)
    assert PATTERN in run.master(2).read_bytes()
    run.send(2)
    for path in (run.proxy(2), *(path for path in run.package(2).rglob("*") if path.is_file())):
        assert PATTERN not in path.read_bytes()
    names = [name for name in read_all(run.proxy(2)) if ".control" in name]
    assert names
    assert all(name.endswith((".codes", ".scales")) for name in names)


def test_what_clients_can_work_out_of_their_packages(rounded):
    """The page on SCAFFOLD says it: from all packages, the owner's adapter, nearer than any of its proxies.

    The owner's way is -S times the sum of all c that it sent and of the last one that it keeps.
    """
    reached, known = {}, {}
    for number in range(4):
        with TensorFile(rounded.proxy(number), ProxyHeader) as proxy:
            for name in proxy.header.spec.shapes:
                if number == 0:
                    reached[name] = read_component(proxy, name).double()
                else:
                    reached[name] -= RATE_SUM * read_control(proxy, name).double()
                known[name] = read_component(proxy, name).double()
    central = {name: value.double() for name, value in read_all(rounded.master(3)).items() if name in known}
    factors = [name for name in central if name.endswith("lora_B")]  # what A starts at is rounded
    by_proxy = norm({name: known[name] - central[name] for name in factors})
    by_variates = norm({name: reached[name] - central[name] for name in factors})
    assert by_variates < by_proxy
