"""A federation played in one process ends in the bytes of the commands, run by hand."""

import json
import shutil

import pytest
from msgspec.structs import replace
from support.forge import header_of, sha256_of
from support.parties import RECIPE, Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import evaluate, log, simulate, status, verify
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.client_data import Cut, open_clients
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.partition import dirichlet_shards, sample_clients
from fedlpp_cli.errors import (
    DataError,
    GateError,
    InputError,
    LineageError,
    ModelError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.records.specs import AggregateSpec, BaseQuantSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.kinds import task_for

SEED = 7  # as Federation.init has it
NAMES = ("a", "b", "c", "d")


def spec_of(federation):
    return FederationSpec(
        base=federation.base, private_base=federation.private_base, seed=SEED, task=federation.task,
        lora=federation.lora, quantize=federation.quantize,
        base_quantize=federation.base_quantize or BaseQuantSpec(), train=federation.train,
        update=federation.round_updates, aggregate=federation.aggregate,
    )  # fmt: skip


def play(federation, out, n_rounds, *, clients=None, **options):
    data = {client: federation.data(client) for client in clients or federation.clients}
    options.setdefault("keep_state", federation.keep_states)
    return simulate(spec_of(federation), data, out=out, n_rounds=n_rounds, device="cpu", **options)


def artifacts(run):
    """Every file of a run by name; data and settings beside it are no part."""
    files = [path for path in run.rglob("*") if path.is_file() and path.relative_to(run).parts[0] != "data"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def uneven(federation):
    """Rows of very different lengths, so that batches of one client do not fit another."""
    for number, client in enumerate(federation.clients):
        rows = [
            {**row, "completion": " ".join([row["completion"]] * (1 + 3 * (number % 2)))}
            for row in prompt_rows(5 + 4 * number, seed=number)
        ]
        write_jsonl(federation.data(client), rows)
    return federation


KINDS = {
    "public base": {
        "lora": LoraSpec(rank=4, dropout=0.3),
        "train": replace(RECIPE, steps=None, epochs=1.5, optimizer="sgd", momentum=0.5, schedule="cosine", warmup=0.5),
        "aggregate": AggregateSpec(update_rule=4, n_rounds=2, server_learning_rate=0.7, weighting="examples"),
        "quantize": QuantSpec(bits="2", rounding="stochastic", rounding_seed="spring", scale_rounding="up"),
    },
    "private base, nf3": {
        "lora": LoraSpec(rank=4, dropout=0.1), "private_base": True, "base_quantize": BaseQuantSpec(format="nf3"),
    },
    "control variates": {
        "train": replace(RECIPE, optimizer="sgd", learning_rate=0.3, weight_decay=0.0, control_variates=True),
        "round_updates": QuantSpec(bits="4", block=32), "keep_states": True,
        "aggregate": AggregateSpec(n_population=3),
    },
    "rounded updates, states": {
        "lora": LoraSpec(rank=4, dropout=0.1), "round_updates": QuantSpec(bits="2", block=32), "keep_states": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory, llama):
    """Two clients, two rounds. Read only."""
    federation = Federation(tmp_path_factory.mktemp("by-hand"), llama)
    federation.play(2)
    return federation


@pytest.mark.parametrize("kind", KINDS)
def test_every_artifact_is_that_of_the_commands_whatever_the_order_of_clients(llama, tmp_path, kind):
    federation = uneven(Federation(tmp_path / "by-hand", llama, **KINDS[kind]))
    federation.play(2)
    expected = artifacts(federation.folder)
    result = play(federation, tmp_path / "run", 2, clients=("b", "a"))
    assert result.sha256 == sha256_of(federation.master(2))
    found = artifacts(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []


def test_a_sample_of_the_clients_takes_part_in_each_round(llama, tmp_path):
    """With states: each goes on with the one of its last round, whenever that was."""
    federation = Federation(
        tmp_path / "by-hand", llama, clients=NAMES, round_updates=QuantSpec(bits="ternary"), keep_states=True
    )
    federation.init()
    last = {}
    for number in range(3):
        federation.send(number)
        chosen = sample_clients(NAMES, 2, seed=SEED, round_number=number)
        for client in chosen:
            federation.train_client(number, client, state=last.get(client))
            last[client] = federation.state(number, client)
        federation.fold(number, [federation.update(number, client) for client in chosen])
    assert len(last) > 2  # somebody paused
    result = play(federation, tmp_path / "run", 3, clients_per_round=2)
    assert [one.n_clients for one in result.rounds] == [2] * 3
    assert artifacts(tmp_path / "run") == artifacts(federation.folder)


def test_a_classifier_on_one_data_set_that_is_cut_by_its_labels(bert, tmp_path):
    rows = label_rows(40, seed=3)
    names = [f"client-{number:04d}" for number in range(3)]
    federation = Federation(
        tmp_path / "by-hand", bert, clients=tuple(names),
        task=TaskSpec(kind="seq-cls", max_length=32, labels=LABELS),
    )  # fmt: skip
    shards = dirichlet_shards([json.dumps(row["label"]) for row in rows], 3, alpha=0.2, seed=SEED)
    for name, shard in zip(names, shards, strict=True):
        write_jsonl(federation.data(name), [rows[row] for row in shard])
    cut = Cut(data=write_jsonl(tmp_path / "all.jsonl", rows), n_clients=3, scheme="dirichlet", alpha=0.2)
    simulate(spec_of(federation), cut, out=tmp_path / "run", n_rounds=2, device="cpu")
    federation.play(2)
    assert artifacts(tmp_path / "run") == artifacts(federation.folder)


class Stop(Exception):  # noqa: N818  # what it is, not what is wrong
    """Somebody pulls the plug."""


def stop_at(wanted):
    def on_progress(text, done, total):
        if wanted in text:
            raise Stop

    return on_progress


def identities(run):
    """Of artifacts; the ledger is no artifact, and grows."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != "releases.jsonl"]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("wanted", ["round 1, b, step 2", "quantizing adapter", "aggregating", "checking updates"])
def test_it_goes_on_where_it_stopped_and_rewrites_nothing(by_hand, tmp_path, wanted):
    federation, run = by_hand, tmp_path / "run"
    with pytest.raises(Stop):
        play(federation, run, 2, on_progress=stop_at(wanted))
    assert list(run.rglob(".*")) == []
    before = identities(run)
    assert 0 < len(before) < len(artifacts(federation.folder))
    result = play(federation, run, 2)
    assert artifacts(run) == artifacts(federation.folder)
    assert before.items() <= identities(run).items()
    trained = sum(one.n_trained for one in result.rounds)
    assert trained == 4 - sum("updates" in path.parts for path in before)
    after = identities(run)
    again = play(federation, run, 2)
    assert (again.rounds, again.round, again.sha256) == ((), 2, result.sha256)
    assert identities(run) == after


def test_a_state_without_its_update_is_made_again(llama, tmp_path):
    federation = Federation(tmp_path, llama, round_updates=QuantSpec(bits="4"), keep_states=True)
    play(federation, tmp_path / "run", 1)
    expected = artifacts(tmp_path / "run")
    (tmp_path / "run" / "round-0000" / "updates" / "a.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "round-0001")
    play(federation, tmp_path / "run", 1)
    assert artifacts(tmp_path / "run") == expected


def test_more_rounds_go_on_from_the_last_master(by_hand, tmp_path):
    federation = by_hand
    play(federation, tmp_path / "run", 1)
    result = play(federation, tmp_path / "run", 2)
    assert [(one.round, one.n_clients, one.n_trained) for one in result.rounds] == [(1, 2, 2)]
    assert result.sha256 == sha256_of(federation.master(2))
    contributions = [header_of(path).spec.metrics for path in federation.updates(1)]
    assert result.rounds[0].loss_last == sum(one.loss_last for one in contributions) / 2
    assert result.rounds[0].n_examples == 28


def test_thirty_clients_of_one_data_set(llama, tmp_path):
    """The other commands work on the run's folder."""
    data, run = write_jsonl(tmp_path / "all.jsonl", prompt_rows(90, seed=1)), tmp_path / "run"
    federation = FederationSpec(
        base=llama, task=TaskSpec(max_length=32), lora=LoraSpec(rank=2, target_modules=("q_proj",)),
        quantize=QuantSpec(block=16),
        train=TrainSpec(steps=1, batch_size=2),
    )  # fmt: skip
    simulate(federation, Cut(data=data, n_clients=30), out=run, n_rounds=1, device="cpu")
    assert verify([run], complete=True, rerun=True).reruns[0].outcome == "equal"
    assert len(log(run).rounds[0].clients) == 30
    assert status(run).round == 1
    assert evaluate([str(run / "round-0001" / "master.safetensors")], data=data, base=llama, device="cpu").n_cut == 0


def test_updates_that_are_not_kept(llama, tmp_path):
    """The master is that of a run that kept everything; of the states the newest stay."""
    federation = Federation(tmp_path / "f", llama, round_updates=QuantSpec(bits="4"), keep_states=True)
    kept = play(federation, tmp_path / "kept", 2)
    assert play(federation, tmp_path / "dropped", 2, keep_updates=False).sha256 == kept.sha256
    gone = artifacts(tmp_path / "kept").keys() - artifacts(tmp_path / "dropped").keys()
    assert sorted(gone) == [
        f"round-000{number}/{name}/{client}.safetensors"
        for number, name in ((0, "states"), (0, "updates"), (1, "updates"))
        for client in "ab"
    ]
    assert [entry.clients for entry in log(tmp_path / "dropped").rounds] == [(), (), ()]
    assert status(tmp_path / "dropped").round == 2
    assert verify([tmp_path / "dropped"]).missing == 2 + 2 + 2  # updates, of two masters and of the states


def test_a_plan_reads_everything_and_writes_nothing(llama, tmp_path):
    federation = Federation(
        tmp_path / "by-hand", llama, train=TrainSpec(epochs=1.0, batch_size=4), round_updates=QuantSpec(bits="4"),
    )  # fmt: skip
    found = play(federation, tmp_path / "run", 3, clients_per_round=1, dry_run=True)
    assert not (tmp_path / "run").exists()
    plan = found.plan
    assert [(one.client, one.n_examples, one.n_steps) for one in plan.clients] == [("a", 12, 3), ("b", 16, 4)]
    assert (plan.n_rounds, plan.clients_per_round, found.sha256, found.rounds) == (3, 1, None, ())
    # 3 bits and a 16-bit scale for 64 weights; 4 bits likewise.
    assert (plan.bytes_down, plan.bytes_up) == (2176 * 3.25 / 8, 2176 * 4.25 / 8)
    play(federation, tmp_path / "run", 1)
    before = identities(tmp_path / "run")
    found = play(federation, tmp_path / "run", 3, dry_run=True)
    assert (found.plan.n_rounds, found.plan.bytes_down, found.round) == (2, plan.bytes_down, 1)
    assert identities(tmp_path / "run") == before


def test_a_plan_counts_a_private_base(llama, tmp_path):
    federation = Federation(
        tmp_path / "f", llama, private_base=True, base_quantize=BaseQuantSpec(format="nf3", block=32)
    )
    before = play(federation, tmp_path / "run", 1, dry_run=True).plan
    play(federation, tmp_path / "run", 1)
    after = play(federation, tmp_path / "run", 2, dry_run=True).plan
    assert before.bytes_down == after.bytes_down > 5000
    (weights,) = (tmp_path / "run" / "round-0000" / "package" / "base").glob("*.safetensors")
    n_header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    assert weights.stat().st_size - n_header == after.bytes_down - 2176 * 3.25 / 8


def test_cuts_by_column_and_what_they_need(llama, tmp_path):
    rows = [{**row, "place": place} for row, place in zip(prompt_rows(6, seed=1), "xyxzyx", strict=True)]
    data = write_jsonl(tmp_path / "all.jsonl", rows)
    task = task_for(TaskSpec(max_length=32), open_tokenizer(llama), {})
    options = {"columns": {}, "split": None, "seed": 0, "on_progress": lambda *_: None}
    found = open_clients(Cut(data=data, scheme="column", column="place"), task, **options)
    assert {name: found.known_size(name) for name in found.names} == {
        "client-0000": 3, "client-0001": 2, "client-0002": 1,
    }  # fmt: skip
    everything = open_clients(Cut(data=data, n_clients=1), task, **options).examples("client-0000")
    assert found.examples("client-0001") == [everything[1], everything[4]]
    with pytest.raises(DataError, match=r"all.jsonl, line 1: no column 'gone'; found prompt"):
        open_clients(Cut(data=data, scheme="column", column="gone"), task, **options)
    with pytest.raises(UsageError, match="rows have no label"):
        open_clients(Cut(data=data, n_clients=2, scheme="dirichlet"), task, **options)
    for fields in ({}, {"n_clients": 2, "scheme": "column"}, {"n_clients": 2, "column": "place"}):
        with pytest.raises(UsageError):
            Cut(data=data, **fields)


def test_what_cannot_work_is_told_before_anything_is_trained(llama, gpt2, tmp_path):
    federation, run = Federation(tmp_path / "f", llama), tmp_path / "run"
    good = spec_of(federation)
    data = {"a": federation.data("a")}

    def refused(error, match, spec=good, source=data, out=run, **options):
        with pytest.raises(error, match=match):
            simulate(spec, source, out=out, device="cpu", **options)

    def changed(**fields):
        return FederationSpec(**{name: getattr(good, name) for name in FederationSpec.__slots__} | fields)

    refused(SecrecyError, "not written to the Hub", out="hf://org/repo/run")
    refused(UsageError, "--base is missing", spec=changed(base=None))
    refused(UsageError, "--rounds 0", n_rounds=0)
    refused(UsageError, "--rounds 3: .* is 2", spec=changed(aggregate=AggregateSpec(update_rule=4, n_rounds=2)))
    scaffold = replace(RECIPE, optimizer="sgd", weight_decay=0.0, control_variates=True)
    refused(UsageError, "--keep-state is missing", spec=changed(train=scaffold))
    refused(UsageError, "n_population 3: .* no control", spec=changed(aggregate=AggregateSpec(n_population=3)))
    assert not run.exists()
    refused(UsageError, "no clients", source={})
    refused(UsageError, "--clients-per-round 2: there are 1", clients_per_round=2)
    two, kept = {**data, "b": federation.data("b")}, {"keep_state": True}
    few = changed(train=scaffold, aggregate=AggregateSpec(n_population=1))
    for dry_run in (False, True):
        refused(UsageError, "n_population 1: there are 2 clients", spec=few, source=two, dry_run=dry_run, **kept)
        options = {"source": two, "clients_per_round": 1, "dry_run": dry_run, **kept}
        refused(UsageError, "--clients-per-round 1: .* number of all", spec=changed(train=scaffold), **options)
    shutil.rmtree(run)
    refused(InputError, "client 'z': .*: no such data file", source={**data, "z": tmp_path / "gone.jsonl"})
    refused(LineageError, "seed 7, not 8", spec=changed(seed=8))
    assert list(run.glob("*/updates/*")) == []
    simulate(good, data, out=run, n_rounds=1, device="cpu")
    refused(ModelError, "the agreed base model", spec=changed(base=gpt2))


def test_an_update_of_other_data_is_not_taken_for_a_shards(llama, tmp_path):
    data = write_jsonl(tmp_path / "all.jsonl", prompt_rows(12, seed=1))
    federation, run = spec_of(Federation(tmp_path / "f", llama)), tmp_path / "run"
    with pytest.raises(Stop):
        simulate(
            federation, Cut(data=data, n_clients=3), out=run, device="cpu", on_progress=stop_at("client-0001, step")
        )
    with pytest.raises(LineageError, match="trained on 4 examples, this client has 6 now"):
        simulate(federation, Cut(data=data, n_clients=2), out=run, device="cpu")


def test_a_training_that_goes_wrong_names_round_and_client(llama, tmp_path):
    federation = Federation(
        tmp_path / "f", llama, train=TrainSpec(steps=4, optimizer="sgd", learning_rate=1e30, max_grad_norm=0.0)
    )
    with pytest.raises(GateError, match=r"round 0, client 'a': .*nothing was written"):
        play(federation, tmp_path / "run", 1)
    write_jsonl(federation.data("b"), [{"prompt": "ab "}])
    with pytest.raises(DataError, match=r"round 0, client 'b': b.jsonl, line 1"):
        play(federation, tmp_path / "run", 1, clients=("b",))


SETTINGS = """
seed = 7
base = "{base}"

[task]
max_length = 32

[lora]
rank = 4

[train]
steps = 3
batch_size = 4
learning_rate = 1e-2

[clients]
a = "{data}/data/a.jsonl"
b = "{data}/data/b.jsonl"
"""


def test_on_the_command_line(runner, llama, by_hand, tmp_path):
    def fedlpp(*arguments):
        return runner.invoke(app, ["simulate", "-f", str(settings), *map(str, arguments)])

    federation, settings = by_hand, by_hand.folder.parent / "federation.toml"
    settings.write_text(SETTINGS.format(base=llama, data=federation.folder.name))
    call = ["--out", tmp_path / "run", "--device", "cpu"]
    planned = fedlpp(*call, "--dry-run")
    assert (planned.exit_code, planned.stderr) == (0, "")
    assert "28; a client has 12 to 16" in planned.stdout
    shown = fedlpp(*call, "--rounds", 1)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.rstrip().splitlines()[-1] == str(tmp_path / "run")
    found = json.loads(fedlpp(*call, "--rounds", 2, "--json").stdout)["data"]
    assert found["sha256"] == sha256_of(federation.master(2))
    assert artifacts(tmp_path / "run") == artifacts(federation.folder)
    for wrong, message in (
        (["--clients", 3], "--clients goes with --data"),
        (["--partition", "iid"], "--partition goes with --data"),
        (["--data", "x.jsonl", "--clients", 2, "--dirichlet-alpha", 0.5], "goes with --partition dirichlet"),
        (["--data", "x.jsonl"], "--clients is missing"),
        (["--seed", 8], "seed 7, not 8"),
    ):
        result = fedlpp(*call, *wrong)
        assert message in result.stderr
        assert result.exit_code in {2, 5}
    data = write_jsonl(tmp_path / "all.jsonl", prompt_rows(9, seed=1))
    cut = ["--data", data, "--clients", 3, "--clients-per-round", 2, "--rounds", 1, "--ledger", tmp_path / "ledger"]
    shown = fedlpp("--out", tmp_path / "cut", "--device", "cpu", *cut, "--no-keep-updates", "--quiet")
    assert shown.stdout == f"{tmp_path / 'cut'}\n"
    assert (tmp_path / "ledger").is_file()
    assert not (tmp_path / "cut" / "releases.jsonl").exists()
