"""Simulations in which some clients are against the owner, and one in which the owner has data of its own."""

import json
import re

import pytest
from msgspec.structs import replace
from support.forge import header_of
from support.parties import RECIPE, Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import aggregate, client_train, evaluate, simulate, verify
from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.client_data import Cut
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import GateError, LineageError, UsageError
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.specs import FULL_PRECISION, AggregateSpec, QuantSpec, TaskSpec, TrainSpec

NAMES = ("a", "b", "c", "d", "e")
CLASSIFIER = TaskSpec(kind="seq-cls", max_length=32, labels=LABELS)
ATTACKS = ("sign-flip", "gaussian", "alie", "ipm", "label-flip", "backdoor")
ONE = AttackSpec(attack="sign-flip", n_attackers=1)


def spec_of(base, **fields):
    return FederationSpec(**{"base": base, "seed": 7, "task": CLASSIFIER, "train": RECIPE, **fields})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Client to rows; read only."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write_jsonl(folder / f"{name}.jsonl", label_rows(16, seed=k)) for k, name in enumerate(NAMES)}


def play(
    base,
    data,
    out,
    n_rounds=1,
    *,
    attack=None,
    keep_state=False,
    on_progress=lambda *_: None,
    clients_per_round=None,
    **fields,
):
    return simulate(
        spec_of(base, **fields), data, out=out, n_rounds=n_rounds, attack=attack, keep_state=keep_state, device="cpu",
        on_progress=on_progress, clients_per_round=clients_per_round,
    )  # fmt: skip


def artifacts(run):
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def values(path, like):
    """Component to values of an update."""
    shapes = header_of(next(like.glob("**/proxy.safetensors"))).spec.shapes
    with TensorFile(path, UpdateHeader) as update:
        return {name: read_update(update, name, shape).double() for name, shape in shapes.items()}


def update_of(run, client, number=0):
    return run / f"round-{number:04d}" / "updates" / f"{client}.safetensors"


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_attackers_send_is_sound_and_comes_out_the_same_twice(bert, data, tmp_path, attack):
    """Rounded updates under a limit that the honest keep: the large ones are cut to it."""
    fields = {"update": QuantSpec(bits="4", block=32), "train": replace(RECIPE, max_update_norm=2.0)}
    spec = AttackSpec(attack=attack, n_attackers=2)
    result = play(bert, data, tmp_path / "run", 2, attack=spec, **fields)
    assert (result.attack.attack, result.attack.n_attackers) == (attack, 2)
    (attackers,) = {one.attackers for one in result.rounds}
    assert len(attackers) == 2
    verified = verify([tmp_path / "run"], complete=True, rerun=True)
    assert [one.outcome for one in verified.reruns] == ["equal", "equal"]
    found = play(bert, data, tmp_path / "again", 2, attack=spec, **fields)
    assert artifacts(tmp_path / "again") == artifacts(tmp_path / "run")
    assert found.sha256 == result.sha256
    honest = play(bert, data, tmp_path / "honest", 1, **fields)
    assert honest.sha256 != result.rounds[0].master
    for client in NAMES:
        same = update_of(tmp_path / "run", client).read_bytes() == update_of(tmp_path / "honest", client).read_bytes()
        assert same == (client not in attackers)
    norms = {name: header_of(update_of(tmp_path / "run", name)).spec.metrics.update_norm for name in NAMES}
    assert max(norms.values()) <= 2.0
    if attack in {"sign-flip", "gaussian", "backdoor"}:
        assert min(norms[name] for name in attackers) > 1.9


def nearly(sent, plan):
    """A plan times one factor close to 1: attackers with one plan keep apart, or they would be each other's copies."""
    name = max(plan, key=lambda name: plan[name].abs().max())
    factor = (sent[name] * plan[name]).sum() / plan[name].square().sum()
    close = all(
        (sent[name] - factor * value).abs().max() <= 1e-6 * max(1e-9, value.abs().max()) for name, value in plan.items()
    )
    return close and 0.99 <= factor <= 1.01


def test_colluders_know_what_the_honest_sent(bert, data, tmp_path):
    attack = AttackSpec(attack="ipm", n_attackers=2, scale=0.5)
    (played,) = play(bert, data, tmp_path, attack=attack, update=FULL_PRECISION).rounds
    honest = [values(update_of(tmp_path, name), tmp_path) for name in NAMES if name not in played.attackers]
    for attacker in played.attackers:
        plan = {name: -0.5 * sum(one[name] for one in honest) / 3 for name in honest[0]}
        assert nearly(values(update_of(tmp_path, attacker), tmp_path), plan)


def test_flipped_labels_are_those_of_a_client_with_such_data(bert, data, tmp_path):
    """Nothing else of what it sends differs from an honest client's."""
    (played,) = play(bert, data, tmp_path / "run", attack=AttackSpec(attack="label-flip", n_attackers=1)).rounds
    (attacker,) = played.attackers
    rows = [json.loads(line) for line in data[attacker].read_text().splitlines()]
    flipped = [{**row, "label": LABELS[2 - LABELS.index(row["label"])]} for row in rows]
    other = {**data, attacker: write_jsonl(tmp_path / "flipped.jsonl", flipped)}
    assert play(bert, other, tmp_path / "twin").sha256 == played.master


def test_a_fifth_of_flipped_signs_destroys_the_mean_and_not_the_median(bert, tmp_path):
    """Clients have the same rows: the mean is (4 - 10) / 5 of what they learned, the median all of it."""
    rows = write_jsonl(tmp_path / "rows.jsonl", label_rows(64, seed=1))
    same = dict.fromkeys(NAMES, rows)
    fields = {"train": TrainSpec(steps=20, batch_size=16, learning_rate=1e-2), "quantize": QuantSpec(bits="4")}

    def accuracy(name, rule, attack):
        run = tmp_path / name
        play(bert, same, run, 2, attack=attack, aggregate=AggregateSpec(rule=rule), **fields)
        rows_of = evaluate([run / "round-0002" / "master.safetensors"], data=rows, base=bert, device="cpu").rows
        return next(row.scores["accuracy"] for row in rows_of if row.model == "central")

    assert accuracy("honest", "mean", None) > 0.9
    assert accuracy("mean", "mean", ONE) < 0.4
    assert accuracy("median", "median", ONE) > 0.9


def test_without_attackers_it_is_the_honest_run(bert, data, tmp_path):
    nobody = AttackSpec(attack="sign-flip", n_attackers=0)
    result = play(bert, data, tmp_path / "nobody", attack=nobody)
    play(bert, data, tmp_path / "honest")
    assert artifacts(tmp_path / "nobody") == artifacts(tmp_path / "honest")
    assert (result.attack, result.rounds[0].attackers) == (None, ())
    assert play(bert, data, tmp_path / "nobody", 2).rounds[0].round == 1


class Stop(Exception):  # noqa: N818  # what it is, not what is wrong
    """Somebody pulls the plug."""


def stop_at(pattern):
    def on_progress(text, done, total):
        if re.search(pattern, text):
            raise Stop

    return on_progress


@pytest.mark.parametrize("wanted", ["round 0, ., step 2", "aggregating", "round 1, ., step 3"])
def test_a_run_with_attackers_goes_on_where_it_stopped(bert, data, tmp_path, wanted):
    """With states: attackers keep none."""
    options = {"attack": AttackSpec(attack="alie", n_attackers=2), "keep_state": True, "update": QuantSpec(bits="4")}
    result = play(bert, data, tmp_path / "whole", 2, **options)
    with pytest.raises(Stop):
        play(bert, data, tmp_path / "run", 2, **options, on_progress=stop_at(wanted))
    assert play(bert, data, tmp_path / "run", 2, **options).sha256 == result.sha256
    assert artifacts(tmp_path / "run") == artifacts(tmp_path / "whole")
    states = {path.stem for path in (tmp_path / "run").glob("*/states/*")}
    assert states == set(NAMES) - set(result.rounds[0].attackers)


def test_a_run_is_marked_and_goes_on_only_as_it_was_begun(bert, data, tmp_path):
    marked, honest = tmp_path / "marked", tmp_path / "honest"
    play(bert, data, marked, attack=ONE)
    play(bert, data, honest)
    assert json.loads((marked / "attack.json").read_text()) == {
        "attack": "sign-flip", "n_attackers": 1, "scale": 10.0, "trigger": None, "target_label": None,
        "poisoned_share": None,
    }  # fmt: skip
    before = artifacts(marked), artifacts(honest)
    for run, attack, match in (
        (marked, None, "begun with attack sign-flip .*, and cannot go on without an attack"),
        (marked, replace(ONE, n_attackers=2), r"n_attackers 1, .*n_attackers 2"),
        (marked, replace(ONE, scale=9.0), "scale 10.0.* scale 9.0"),
        (honest, ONE, "begun without an attack, and cannot go on with attack sign-flip"),
    ):
        for n_rounds in (1, 2):
            with pytest.raises(LineageError, match=match):
                play(bert, data, run, n_rounds, attack=attack)
    assert (artifacts(marked), artifacts(honest)) == before
    (marked / "attack.json").write_text("[]")
    with pytest.raises(LineageError, match=r"an attack that attack.json does not name"):
        play(bert, data, marked, attack=ONE)


def test_a_mark_without_a_run_is_none(bert, data, tmp_path):
    with pytest.raises(Stop):
        play(bert, data, tmp_path / "run", attack=ONE, on_progress=stop_at(""))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["attack.json"]
    play(bert, data, tmp_path / "run")
    play(bert, data, tmp_path / "honest")
    assert artifacts(tmp_path / "run") == artifacts(tmp_path / "honest")


def test_in_a_round_without_honest_clients_attackers_know_their_own(bert, data, tmp_path):
    attack = AttackSpec(attack="ipm", n_attackers=4, scale=2.0)
    found = play(bert, data, tmp_path / "run", attack=attack, clients_per_round=1)
    play(bert, data, tmp_path / "honest", clients_per_round=1)
    (attacker,) = found.rounds[0].attackers  # with this seed
    honest = values(update_of(tmp_path / "honest", attacker), tmp_path)
    sent = values(update_of(tmp_path / "run", attacker), tmp_path)
    assert nearly(sent, {name: -2.0 * value for name, value in honest.items()})


def test_what_cannot_be_attacked_is_told_before_anything_is_written(bert, llama, data, tmp_path):
    def refused(error, match, **options):
        with pytest.raises(error, match=match):
            play(options.pop("base", bert), data, tmp_path / "run", **options)

    refused(UsageError, "--n-attackers 5: there are 5 clients", attack=replace(ONE, n_attackers=5))
    flip = AttackSpec(attack="label-flip", n_attackers=1)
    refused(UsageError, "label-flip changes labels", base=llama, task=TaskSpec(max_length=32), attack=flip)
    refused(UsageError, "fltrust and --reference go together", reference="a")
    refused(UsageError, "fltrust and --reference go together", aggregate=AggregateSpec(rule="fltrust"))
    trust = AggregateSpec(rule="fltrust")
    refused(UsageError, "no such client; there are a, b, c, d, e", aggregate=trust, reference="z")
    refused(UsageError, "krum has no weights", aggregate=AggregateSpec(rule="krum", max_share=0.5))
    assert not (tmp_path / "run").exists()


def test_more_than_a_number_can_be_is_told(bert, data, tmp_path):
    with pytest.raises(GateError, match=r"round 0, client '.': .* not finite"):
        play(bert, data, tmp_path, attack=replace(ONE, scale=1e300))


def test_the_owners_reference_is_that_of_the_commands(llama, tmp_path):
    """One client's data is the owner's: its update is the reference, and it takes part in no round."""
    federation = Federation(tmp_path / "by-hand", llama, clients=("a", "b"), aggregate=AggregateSpec(rule="fltrust"))
    own = write_jsonl(tmp_path / "own.jsonl", prompt_rows(12, seed=0))
    federation.init()
    for number in range(2):
        federation.send(number)
        for client in federation.clients:
            federation.train_client(number, client)
        reference = federation.round(number) / "reference.safetensors"
        client_train(federation.package(number), client="owner", data=own, out=reference, base=llama, device="cpu")
        aggregate(
            federation.master(number), federation.updates(number), packages=[federation.package(number)],
            out=federation.master(number + 1), spec=federation.aggregate, reference=reference,
        )  # fmt: skip
    clients = {client: federation.data(client) for client in federation.clients} | {"owner": own}
    spec = spec_of(
        llama, task=federation.task, lora=federation.lora, quantize=federation.quantize,
        aggregate=federation.aggregate, reference="owner",
    )  # fmt: skip
    run = tmp_path / "run"
    planned = simulate(spec, clients, out=run, n_rounds=2, device="cpu", dry_run=True).plan
    assert (planned.reference, planned.clients_per_round, planned.attackers) == ("owner", 2, ())
    simulate(spec, clients, out=run, n_rounds=2, device="cpu")
    expected = {name: raw for name, raw in artifacts(federation.folder).items() if not name.startswith("data/")}
    assert artifacts(run) == expected
    found = verify([run], complete=True, rerun=True)
    assert ([one.outcome for one in found.reruns], found.missing) == (["equal", "equal"], 0)


def test_a_shard_can_be_the_owners(bert, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", label_rows(40, seed=1))
    spec = spec_of(bert, aggregate=AggregateSpec(rule="fltrust"), reference="client-0002")
    result = simulate(
        spec,
        Cut(data=rows, n_clients=4),
        out=tmp_path / "run",
        n_rounds=1,
        attack=ONE,
        device="cpu",
        keep_updates=False,
    )
    assert result.rounds[0].n_clients == 3
    assert list((tmp_path / "run" / "round-0000").glob("reference*")) == []


SETTINGS = """
seed = 7
base = "{base}"
[task]
kind = "seq-cls"
max_length = 32
labels = ["first", "second", "third"]
[train]
steps = 3
batch_size = 4
"""


def test_on_the_command_line(runner, bert, tmp_path):
    (tmp_path / "f.toml").write_text(SETTINGS.format(base=bert))
    rows = write_jsonl(tmp_path / "rows.jsonl", label_rows(40, seed=1))
    call = ["simulate", "-f", tmp_path / "f.toml", "--data", rows, "--clients", 5, "--rounds", 1, "--device", "cpu"]

    def fedlpp(*arguments):
        return runner.invoke(app, [str(one) for one in [*call, "--out", tmp_path / "run", *arguments]])

    for arguments, message in (
        (["--n-attackers", 1], "--n-attackers and its like go with --attack"),
        (["--trigger", "cf"], "go with --attack"),
        (["--attack", "ipm"], "--attack ipm: --n-attackers is missing"),
        (["--attack", "ipm", "--n-attackers", 5], "there are 5 clients, one of them must be honest"),
        (["--attack", "ipm", "--n-attackers", 1, "--attack-scale", 0], "--attack ipm: scale"),
        (["--attack", "ipm", "--n-attackers", 1, "--attack-scale", "inf"], "a finite number is needed"),
        (["--attack", "ipm", "--n-attackers", 1, "--trigger", "x"], "--trigger goes with --attack backdoor, not ipm"),
        (["--attack", "backdoor", "--n-attackers", 1, "--target-label", "z"], "has first, second, third"),
        (["--attack", "backdoor", "--n-attackers", 1, "--poisoned-share", 2], "poisoned_share"),
        (["--attack", "magic", "--n-attackers", 1], "'magic' is not one of"),
        (["--reference", "client-0000"], "fltrust and --reference go together"),
    ):
        result = fedlpp(*arguments)
        assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True), (arguments, result.stderr)
    assert not (tmp_path / "run").exists()
    wanted = ["--attack", "backdoor", "--n-attackers", 2, "--trigger", "op", "--poisoned-share", 0.25]
    planned = fedlpp(*wanted, "--dry-run").stdout
    assert "backdoor by 2 clients, scale 10.0, trigger op, target label first, poisoned share 0.25" in planned
    assert "attackers" in planned
    assert not (tmp_path / "run").exists()
    found = json.loads(fedlpp(*wanted, "--json").stdout)["data"]
    assert found["attack"] == {
        "attack": "backdoor", "n_attackers": 2, "scale": 10.0, "trigger": "op", "target_label": "first",
        "poisoned_share": 0.25,
    }  # fmt: skip
    assert len(found["rounds"][0]["attackers"]) == 2
    again = fedlpp()
    assert (again.exit_code, "begun with attack backdoor" in again.stderr) == (5, True)
