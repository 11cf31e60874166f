"""What `aggregate` computes, and what it refuses."""

import math
import shutil

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import aggregate
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.errors import (
    ArtifactError,
    DuplicateUpdateError,
    GateError,
    LineageError,
    OutputExistsError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec


def fold(played, out, updates=None, **options):
    spec = AggregateSpec(**options.pop("spec", {}))
    return aggregate(
        played.master(0), updates or played.updates(0), packages=[played.package(0)], out=out, spec=spec, **options
    )


def weighted_mean(played, weights):
    parts = [read_all(path) for path in played.updates(0)]
    return {
        name: sum(weight * part[name].double() for weight, part in zip(weights, parts, strict=True))
        for name in parts[0]
    }


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ({}, [0.5, 0.5]),
        ({"weighting": "examples"}, [12 / 28, 16 / 28]),
        ({"weighting": "examples", "max_examples": 12}, [0.5, 0.5]),
        ({"weighting": "examples", "max_examples": 14}, [12 / 26, 14 / 26]),
    ],
)
def test_rule_1_adds_the_weighted_mean_to_the_full_precision_adapter(played, tmp_path, spec, weights):
    fold(played, tmp_path / "next.safetensors", spec={**spec, "server_learning_rate": 0.7})
    theta, found = read_all(played.master(0)), read_all(tmp_path / "next.safetensors")
    for name, mean in weighted_mean(played, weights).items():
        assert torch.allclose(found[name].double(), theta[name].double() + 0.7 * mean, atol=1e-7, rtol=0)


def test_rule_2_adds_it_to_the_proxy(played, tmp_path):
    from fedlpp_cli.quantization.tensors import round_tensor

    fold(played, tmp_path / "next.safetensors", spec={"update_rule": 2})
    theta, found = read_all(played.master(0)), read_all(tmp_path / "next.safetensors")
    for name, mean in weighted_mean(played, [0.5, 0.5]).items():
        proxy = round_tensor(theta[name], played.quantize, name=name).double()
        assert torch.allclose(found[name].double(), proxy + mean, atol=1e-7, rtol=0)


def test_rules_2_and_3_agree_at_rate_1(played, tmp_path):
    for rule in (2, 3):
        fold(played, tmp_path / f"{rule}.safetensors", spec={"update_rule": rule})
    two, three = (read_all(tmp_path / f"{rule}.safetensors") for rule in (2, 3))
    assert all(torch.allclose(two[name], three[name], atol=1e-7) for name in two)


def test_rule_4_needs_the_planned_rounds_and_ends_with_them(played, tmp_path):
    fold(played, tmp_path / "a.safetensors", spec={"update_rule": 4, "n_rounds": 1})
    with pytest.raises(UsageError, match="the master is already of round 1"):
        aggregate(
            tmp_path / "a.safetensors", played.updates(0), packages=[played.package(0)], out=tmp_path / "b",
            spec=AggregateSpec(update_rule=4, n_rounds=1),
        )  # fmt: skip


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_full_precision_and_rule_1_are_federated_averaging(llama, tmp_path, rate):
    """theta + rate * (weighted mean of the trained adapters - theta)."""
    federation = Federation(
        tmp_path / "run",
        llama,
        quantize=QuantSpec(bits="full"),
        aggregate=AggregateSpec(server_learning_rate=rate, weighting="examples"),
    )
    federation.play(1)
    theta = read_all(federation.master(0))
    counts = [header_of(path).spec.metrics.n_examples for path in federation.updates(0)]
    trained = [{n: theta[n] + d for n, d in read_all(path).items()} for path in federation.updates(0)]
    for name, found in read_all(federation.master(1)).items():
        average = sum(c * t[name].double() for c, t in zip(counts, trained, strict=True)) / sum(counts)
        expected = theta[name].double() + rate * (average - theta[name].double())
        assert torch.allclose(found.double(), expected, atol=1e-6, rtol=0)


def test_order_and_names_of_the_files_change_nothing(played, tmp_path):
    results = []
    for number, order in enumerate(([0, 1], [1, 0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        renamed = [
            shutil.copy(played.updates(0)[i], folder / f"{position}.safetensors") for position, i in enumerate(order)
        ]
        results.append(fold(played, folder / "next.safetensors", renamed).sha256)
    assert results[0] == results[1] == sha256_of(played.master(1))


def test_the_next_master_names_everything_it_was_made_from(played):
    header = header_of(played.master(1))
    assert header.round == 1
    assert header.federation == sha256_of(played.master(0))
    assert header.parents["master"] == (sha256_of(played.master(0)),)
    assert set(header.parents["update"]) == {sha256_of(path) for path in played.updates(0)}
    assert header.spec.quantize == played.quantize
    assert header.spec.aggregate == played.aggregate


def test_the_report_tells_each_clients_part(played, tmp_path):
    result = fold(played, tmp_path / "next.safetensors")
    report = read_report(tmp_path / "next.report.json")
    assert report.header.parents["master"] == (result.sha256,)
    parts = {part.client: part for part in report.header.spec.clients}
    assert {name: part.n_examples for name, part in parts.items()} == {"a": 12, "b": 16}
    for client, part in parts.items():
        tensors = read_all(played.update(0, client))
        assert part.update_norm == pytest.approx(
            math.sqrt(sum(t.square().sum().item() for t in tensors.values())), rel=1e-5
        )
        assert -1 <= part.cosine <= 1
    assert sum(part.weight for part in parts.values()) == pytest.approx(1, abs=1e-5)


def test_the_master_is_for_its_owners_eyes(played, tmp_path):
    fold(played, tmp_path / "next.safetensors")
    assert (tmp_path / "next.safetensors").stat().st_mode & 0o077 == 0
    assert played.master(0).stat().st_mode & 0o077 == 0


def test_a_dry_run_checks_everything_and_writes_nothing(played, tmp_path):
    result = fold(played, tmp_path / "next.safetensors", dry_run=True)
    assert (result.sha256, result.n_clients) == (None, 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LineageError):
        fold(played, tmp_path / "x", [played.master(0)], dry_run=True)


def test_an_output_that_exists_is_kept(played, tmp_path):
    (tmp_path / "next.safetensors").write_text("precious")
    with pytest.raises(OutputExistsError, match="artifacts are not written over"):
        fold(played, tmp_path / "next.safetensors")
    assert (tmp_path / "next.safetensors").read_text() == "precious"
    fold(played, tmp_path / "next.safetensors", force=True)
    assert sha256_of(tmp_path / "next.safetensors") == sha256_of(played.master(1))


def test_a_master_never_goes_to_the_hub(played):
    with pytest.raises(SecrecyError, match="masters hold the owner's full-precision adapter"):
        fold(played, "hf://org/repo/master.safetensors")


def set_value(name, index, value):
    def change(tensors):
        tensors[name].view(-1)[index] = value
        return tensors

    return change


FIRST = "model.layers.0.mlp.down_proj.lora_A"
BAD = {
    "another federation": (LineageError, "of federation", {"federation": "0" * 64}),
    "another round": (LineageError, "of round 3, the master is of round 0", {"round": 3}),
    "another method": (LineageError, "of method 'ffa-lora'", {"method": "ffa-lora"}),
    "another package": (LineageError, "trained on a package other than", {"parents": {"package": ("0" * 64,)}}),
    "no package": (LineageError, "trained on a package other than", {"parents": {}}),
    "a missing tensor": (LineageError, "'model.*' is missing", {"change": lambda t: dict(list(t.items())[1:])}),
    "one tensor more": (LineageError, "not part of this federation", {"change": lambda t: {**t, "x": torch.ones(1)}}),
    "another shape": (
        LineageError, r"F32 \[4, 31\], F32 \[4, 32\] is needed", {"change": lambda t: {**t, FIRST: t[FIRST][:, 1:]}},
    ),
    "another dtype": (LineageError, "F16 .*, F32 .* is needed", {"change": lambda t: {**t, FIRST: t[FIRST].half()}}),
    "NaN": (GateError, "not finite", {"change": set_value(FIRST, 5, math.nan)}),
    "infinity": (GateError, "not finite", {"change": set_value(FIRST, 5, -math.inf)}),
    "nothing but zeros": (GateError, "all values are zero", {"change": lambda t: {n: 0 * v for n, v in t.items()}}),
}  # fmt: skip


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_update_is_refused_by_file_and_reason(played, tmp_path, problem):
    error, message, forgery = BAD[problem]
    bad = reforge(played.update(0, "b"), tmp_path / "bad.safetensors", **forgery)
    with pytest.raises(error, match=message) as caught:
        fold(played, tmp_path / "next.safetensors", [played.update(0, "a"), bad])
    assert str(bad) in str(caught.value)
    assert not (tmp_path / "next.safetensors").exists()
    assert not (tmp_path / "next.report.json").exists()


def test_all_bad_updates_are_told_at_once(played, tmp_path):
    bad = [
        reforge(played.update(0, "a"), tmp_path / "one.safetensors", round=9),
        reforge(played.update(0, "b"), tmp_path / "two.safetensors", change=set_value(FIRST, 0, math.nan)),
    ]
    with pytest.raises(LineageError, match=r"2 of 2 updates are refused:\n  .*one.safetensors.*\n  .*two.safetensors"):
        fold(played, tmp_path / "next.safetensors", bad)


def test_two_updates_of_one_client_are_refused_equal_or_not(played, tmp_path):
    copy = shutil.copy(played.update(0, "a"), tmp_path / "again.safetensors")
    with pytest.raises(DuplicateUpdateError, match="two updates of client 'a'"):
        fold(played, tmp_path / "next.safetensors", [played.update(0, "a"), copy])
    other = reforge(played.update(0, "a"), tmp_path / "other.safetensors", change=set_value(FIRST, 0, 0.5))
    with pytest.raises(DuplicateUpdateError, match="two updates of client 'a'"):
        fold(played, tmp_path / "next.safetensors", [played.update(0, "a"), other])


def test_what_is_no_update_is_refused_by_its_kind(played, tmp_path):
    with pytest.raises(LineageError, match="is a master, not an update"):
        fold(played, tmp_path / "next.safetensors", [played.master(0)])


def test_a_damaged_update_is_refused(played, tmp_path):
    content = played.update(0, "a").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-10])
    with pytest.raises(ArtifactError, match=r"cut.safetensors"):
        fold(played, tmp_path / "next.safetensors", [tmp_path / "cut.safetensors"])


def test_an_update_larger_than_the_package_allows_is_refused(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, train=TrainSpec(steps=2, batch_size=4, max_update_norm=5.0))
    federation.init()
    federation.send(0)
    federation.train_client(0, "a")
    huge = reforge(
        federation.update(0, "a"), tmp_path / "huge.safetensors", change=lambda t: {n: 1000 * v for n, v in t.items()}
    )
    with pytest.raises(GateError, match="the package allows 5"):
        federation.fold(0, [huge])


def test_a_package_of_another_master_is_refused(played, llama, tmp_path):
    other = Federation(tmp_path / "other", llama, lora=replace(played.lora, alpha=7.0))
    other.init()
    other.send(0)
    with pytest.raises(LineageError, match="its master is"):
        aggregate(played.master(0), played.updates(0), packages=[other.package(0)], out=tmp_path / "next")


def test_an_update_for_another_client_is_refused(llama, tmp_path):
    from fedlpp_cli import client_train, pack

    federation = Federation(tmp_path / "run", llama)
    federation.init()
    federation.send(0)
    pack(federation.proxy(0), out=tmp_path / "for-a", train=federation.train, client="a")
    with pytest.raises(LineageError, match="is for client 'a', not for 'b'"):
        client_train(tmp_path / "for-a", client="b", data=federation.data("b"), out=tmp_path / "b", base=llama)
    client_train(
        tmp_path / "for-a",
        client="a",
        data=federation.data("a"),
        out=tmp_path / "a.safetensors",
        base=llama,
        device="cpu",
    )
    stolen = reforge(
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
        spec=replace(header_of(tmp_path / "a.safetensors").spec, client="b"),
    )
    with pytest.raises(LineageError, match="of 'b', trained on the package of 'a'"):
        aggregate(federation.master(0), [stolen], packages=[tmp_path / "for-a"], out=tmp_path / "next")


def test_packages_for_each_client_fold_together(llama, tmp_path):
    from fedlpp_cli import client_train, pack

    federation = Federation(tmp_path / "run", llama)
    federation.init()
    federation.send(0)
    for client in ("a", "b"):
        pack(federation.proxy(0), out=tmp_path / client, train=federation.train, client=client)
        client_train(
            tmp_path / client,
            client=client,
            data=federation.data(client),
            out=federation.update(0, client),
            base=llama,
            device="cpu",
        )
    result = aggregate(
        federation.master(0), federation.updates(0), packages=[tmp_path / "a", tmp_path / "b"],
        out=federation.master(1),
    )  # fmt: skip
    assert result.n_clients == 2
    assert len(header_of(federation.master(1)).parents["package"]) == 2


def test_nothing_to_aggregate_is_told(played, tmp_path):
    with pytest.raises(UsageError, match="at least one update"):
        aggregate(played.master(0), [], packages=[played.package(0)], out=tmp_path / "next")
