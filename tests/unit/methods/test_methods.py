"""What every method of the table does in a real federation, and what it refuses."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge
from support.parties import Federation

from fedlpp_cli import aggregate, client_train, init, pack, quantize, verify
from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.simulate import simulate
from fedlpp_cli.errors import LayoutError, LineageError, ReplayError, UsageError
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import METHODS, method_named
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import FactorPlan
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.specs import FULL_PRECISION, AggregateSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.steps.private_training import PrivacySettings

# A row for each method: what updates of the first two rounds hold.
TRAINED = {
    "fedlpp": ("AB", "AB"),
    "fedavg": ("AB", "AB"),
    "ffa-lora": ("B", "B"),
    "rolora": ("B", "A"),
    "la-lora": ("AB", "AB"),
    "fedqsn": ("AB", "AB"),
    "fedsvd": ("B", "B"),
    "as-lora": ("B", "A"),
}

RECIPE = TrainSpec(steps=3, batch_size=4, learning_rate=2e-2)
ADAPTER = LoraSpec(rank=2, target_modules=("q_proj", "v_proj"))
ONE_FACTOR = sorted(name for name, (first, second) in TRAINED.items() if len(first) == len(second) == 1)


# The only method whose clients get other proxies than one another.
MASKED = "fedqsn"


def rounding_for(method):
    return FULL_PRECISION if method == "fedavg" else method_named(method).rounding(QuantSpec(bits="3", block=16))


def federation(folder, base, method, **fields):
    mask = method_named(method).mask
    given = {"train": RECIPE, "lora": ADAPTER, "quantize": rounding_for(method), "mask": mask, **fields}
    return Federation(folder, base, method=method, **given)


@pytest.fixture(scope="module", params=sorted(TRAINED))
def run(request, tmp_path_factory, llama):
    """Two rounds of one method. Read only."""
    made = federation(tmp_path_factory.mktemp(request.param), llama, request.param)
    made.play(2)
    return made


def factors_in(components):
    return "".join(sorted({factor_of(name) for name in components}))


def test_the_table_and_these_rows_have_the_same_methods():
    assert {method.name for method in METHODS} == set(TRAINED)
    assert all(method.paper and method.down and method.up and method.private for method in METHODS)


def test_the_method_is_in_every_artifact(run):
    for number, client in itertools.product(range(2), run.clients):
        to = client if client in run.addressees else None
        paths = [run.master(number), run.proxy(number, to), run.update(number, client)]
        assert {header_of(path).method for path in paths} == {run.method}
        assert json.loads((run.package(number, to) / "manifest.json").read_text())["method"] == run.method
    report = run.round(1) / "master.report.json"
    assert json.loads(report.read_text())["method"] == run.method
    verify([run.folder])


def test_updates_hold_what_the_round_trains(run):
    for number, expected in enumerate(TRAINED[run.method]):
        for client in run.clients:
            assert factors_in(read_all(run.update(number, client))) == expected


def test_what_a_round_does_not_train_stays_to_the_bit(run):
    for number, expected in enumerate(TRAINED[run.method]):
        before, after = read_all(run.master(number)), read_all(run.master(number + 1))
        for name in before:
            if factor_of(name) in expected:
                assert not torch.equal(before[name], after[name])
            elif run.method != "fedsvd":  # which makes both factors anew, behind the fold
                assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("method", ONE_FACTOR)
def test_the_mean_of_products_is_the_product_of_means(method, tmp_path, llama):
    made = federation(tmp_path, llama, method, quantize=FULL_PRECISION)
    made.play(2)
    for number in range(2):
        before, after = read_all(made.master(number)), read_all(made.master(number + 1))
        updates = [read_all(path) for path in made.updates(number)]
        for module in factor_modules(before):
            names = factor_b(module), factor_a(module)
            trained = [[before[name].double() + update.get(name, 0) for name in names] for update in updates]
            mean = sum(b @ a for b, a in trained) / len(trained)
            b, a = (after[name].double() for name in names)
            np.testing.assert_allclose(b @ a, mean, atol=1e-6)


@pytest.mark.parametrize("method", sorted(TRAINED))
def test_methods_go_with_privacy_for_examples_and_a_robust_rule(method, tmp_path, llama):
    robust = AggregateSpec(clip_to_median=True) if method == MASKED else AggregateSpec(rule="median")
    made = federation(tmp_path, llama, method, clients=("a", "b", "c"), aggregate=robust)
    made.init()
    made.send(0)
    for client in made.clients:
        ledger = tmp_path / f"{client}.ledger"
        privacy = PrivacySettings(spec=PrivacySpec(noise_multiplier=1.0), ledger=ledger, new_ledger=True)
        result = made.train_client(0, client, privacy=privacy)
        assert result.privacy.noise_multiplier == 1.0
        assert factors_in(read_all(made.update(0, client))) == TRAINED[method][0]
    made.fold(0)
    assert header_of(made.master(1)).method == method


def test_a_simulation_ends_in_the_same_master(run, tmp_path, llama):
    spec = FederationSpec(
        base=llama, method=run.method, seed=7, task=run.task, lora=ADAPTER, quantize=run.quantize, mask=run.mask,
        train=RECIPE,
    )  # fmt: skip
    simulate(spec, {client: run.data(client) for client in run.clients}, out=tmp_path / "run", n_rounds=2)
    made = tmp_path / "run" / "round-0002" / "master.safetensors"
    assert made.read_bytes() == run.master(2).read_bytes()


@pytest.mark.parametrize("method", ["ffa-lora", "rolora"])
def test_what_rounding_takes_waits_until_the_factor_travels_again(method, tmp_path, llama):
    made = federation(tmp_path, llama, method, clients=("a",), keep_states=True, round_updates=QuantSpec(bits="4"))
    made.play(3)
    states = [read_all(made.state(number, "a")) for number in range(3)]
    for number in (1, 2):
        trained = "B" if method == "ffa-lora" or number == 2 else "A"
        for name, value in states[number].items():
            is_same = torch.equal(value, states[number - 1][name])
            assert is_same == (factor_of(name.removesuffix(".residual")) != trained)


def test_a_server_optimizer_remembers_what_does_not_move(tmp_path, llama):
    made = federation(tmp_path, llama, "rolora", aggregate=AggregateSpec(server_optimizer="adam"))
    made.play(2)
    one, two = read_all(made.master(1)), read_all(made.master(2))
    for name in one:
        of_b = ".lora_B" in name
        assert torch.equal(one[name], two[name]) == of_b, name


def test_ranks_of_clients_may_differ(tmp_path, llama):
    made = federation(tmp_path, llama, "ffa-lora", clients=("a", "b"))
    made.init()
    for client, rank in {"a": 1, "b": 2}.items():
        quantize(made.master(0), out=tmp_path / f"proxy-{rank}", spec=made.quantize, rank=rank)
        pack(tmp_path / f"proxy-{rank}", out=tmp_path / f"package-{rank}", train=RECIPE, ledger=tmp_path / "ledger")
        client_train(
            tmp_path / f"package-{rank}", client=client, data=made.data(client), base=llama, out=tmp_path / client
        )
    packages = [tmp_path / "package-1", tmp_path / "package-2"]
    aggregate(made.master(0), [tmp_path / "a", tmp_path / "b"], packages=packages, out=made.master(1))
    after = read_all(made.master(1))
    updates = [read_all(tmp_path / client) for client in ("a", "b")]
    for module in factor_modules(after):
        name = factor_b(module)
        filled = torch.nn.functional.pad(updates[0][name], (0, 1))
        torch.testing.assert_close(after[name], (filled + updates[1][name]) / 2, atol=1e-6, rtol=0)


REFUSED = [
    ("fedavg", {"quantize": QuantSpec(bits="3", block=16)}, "in full precision"),
    ("as-lora", {"train": replace(RECIPE, proximal_mu=0.1)}, "FedProx"),
    ("la-lora", {"train": TrainSpec(steps=1)}, "needs two"),
    (MASKED, {"quantize": QuantSpec(bits="3", block=16)}, "its levels are symmetric, not nf"),
    (MASKED, {"quantize": FULL_PRECISION}, "what clients get is rounded"),
    (MASKED, {"mask": MaskSpec()}, "it hides rows from clients; --mask-client"),
    ("fedsvd", {"round_updates": QuantSpec(bits="4")}, "cannot be rounded"),
    ("fedsvd", {"aggregate": AggregateSpec(server_optimizer="adam")}, "made anew each round"),
    *((name, {"aggregate": AggregateSpec(combine="svd")}, "mean of products already") for name in ONE_FACTOR),
    *(
        (
            name,
            {"train": TrainSpec(steps=1, optimizer="sgd", weight_decay=0.0, control_variates=True)},
            "control variates",
        )
        for name in ONE_FACTOR
    ),
]


@pytest.mark.parametrize(("method", "fields", "reason"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(method, fields, reason, tmp_path, llama):
    made = federation(tmp_path, llama, method, **fields)
    with pytest.raises(UsageError, match=f"method {method}: .*{reason}"):
        made.play(1)
    given = {"quantize": rounding_for(method), "mask": method_named(method).mask, "train": RECIPE}
    given |= {"update" if name == "round_updates" else name: value for name, value in fields.items()}
    spec = FederationSpec(base=llama, method=method, lora=ADAPTER, **given)
    keeps = spec.train.control_variates
    with pytest.raises(UsageError, match=f"method {method}: .*{reason}"):
        simulate(spec, {"a": made.data("a")}, out=tmp_path / "run", keep_state=keeps)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", [*ONE_FACTOR, MASKED])
def test_an_adapter_without_factors_has_none_to_choose_from(method, tmp_path, bert):
    task = TaskSpec(kind="seq-cls", max_length=16, labels=("yes", "no"))
    lora = LoraSpec(target_modules=(), modules_to_save=("classifier",))
    with pytest.raises(UsageError, match=f"method {method}: .*has none"):
        init(bert, out=tmp_path / "m", task=task, lora=lora, method=method)
    assert not (tmp_path / "m").exists()


def test_an_unknown_method_is_refused(tmp_path, llama, runner):
    result = runner.invoke(app, ["init", "--base", str(llama), "--method", "magic", "--out", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert "--method magic: choose from fedlpp, fedavg" in result.stderr
    made = init(llama, out=tmp_path / "known", lora=ADAPTER, task=TaskSpec(max_length=16))
    forged = reforge(tmp_path / "known", tmp_path / "forged", kind=MasterHeader, method="magic")
    with pytest.raises(LineageError, match="of method 'magic', this fedlpp knows fedlpp"):
        quantize(forged, out=tmp_path / "p")
    assert made.method == "fedlpp"


@pytest.mark.parametrize(
    ("method", "trains", "message"),
    [
        ("fedlpp", "both", "of method 'fedlpp', the master has 'rolora'"),
        ("rolora", "both", r"its plan of factors \(both\) is not the one that method 'rolora' makes for round 0 \(B\)"),
    ],
)
def test_a_package_of_another_method_or_plan_is_refused(method, trains, message, tmp_path, llama, runner):
    made = federation(tmp_path, llama, "rolora")
    made.init()
    made.send(0)
    spec = replace(header_of(made.proxy(0)).spec, factors=FactorPlan(trains=trains))
    reforge(made.proxy(0), tmp_path / "proxy", kind=ProxyHeader, method=method, spec=spec)
    pack(tmp_path / "proxy", out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    client_train(tmp_path / "package", client="a", data=made.data("a"), base=llama, out=tmp_path / "update")
    fold = [made.master(0), tmp_path / "update", "--package", tmp_path / "package", "--out", tmp_path / "next"]
    result = runner.invoke(app, ["aggregate", *map(str, fold)])
    assert result.exit_code == LineageError.exit_code
    assert re.search(message, " ".join(result.stderr.split()))
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "next").exists()


def test_artifacts_of_two_methods_do_not_verify_together(tmp_path, llama):
    made = federation(tmp_path, llama, "rolora")
    made.init()
    made.send(0)
    reforge(made.proxy(0), tmp_path / "proxy", kind=ProxyHeader, method="fedlpp")
    with pytest.raises(LineageError, match=r"is of method 'fedlpp', its master .* of 'rolora'"):
        verify([made.master(0), tmp_path / "proxy"])


@pytest.mark.parametrize("method", ["ffa-lora", "as-lora"])
def test_a_private_base_goes_with_a_method(method, tmp_path, llama):
    made = federation(tmp_path, llama, method, private_base=True)
    made.play(1)
    assert json.loads((tmp_path / "base" / "manifest.json").read_text())["method"] == method
    verify([tmp_path])


def test_an_update_with_another_factor_is_refused(tmp_path, llama):
    made = federation(tmp_path, llama, "ffa-lora")
    made.init()
    made.send(0)
    made.train_client(0, "a")
    name = min(read_all(made.update(0, "a")))
    extra = {name.replace("lora_B", "lora_A"): torch.ones(2, 16)}
    forged = reforge(made.update(0, "a"), tmp_path / "forged", change=lambda tensors: {**tensors, **extra})
    with pytest.raises(LayoutError, match="lora_A"):
        aggregate(made.master(0), [forged], packages=[made.package(0)], out=tmp_path / "next")
    foreign = reforge(made.update(0, "a"), tmp_path / "foreign", method="rolora")
    with pytest.raises(ReplayError, match="of method 'rolora', the master has 'ffa-lora'"):
        aggregate(made.master(0), [foreign], packages=[made.package(0)], out=tmp_path / "next")


def test_a_plan_of_factors_says_one_thing():
    with pytest.raises(ValueError, match="modules"):
        FactorPlan(trains="modules")
    with pytest.raises(ValueError, match="modules"):
        FactorPlan(modules={"a": "B"})
    assert replace(FactorPlan(), trains="A").is_of_one_factor


@pytest.mark.parametrize("name", ["fedsvd", "la-lora", "as-lora"])
def test_methods_that_look_at_all_rows_refuse_masks(name: str) -> None:
    with pytest.raises(UsageError, match=f"method {name}: .*masks hide rows of B"):
        method_named(name).check(Asked(mask=MaskSpec(client=0.5)))
    method_named(name).check(Asked(mask=MaskSpec()))
