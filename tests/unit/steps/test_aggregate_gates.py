"""Which updates are used: quorum, shares, rules and their needs, and what the report says of it all."""

import math
import shutil

import pytest
import torch
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import aggregate, verify
from fedlpp_cli.adapters.components import module_of
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.errors import (
    DuplicateUpdateError,
    GateError,
    InputError,
    LayoutError,
    NotFiniteError,
    QuorumError,
    ReplayError,
    UsageError,
)
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import AggregateSpec

CLIENTS = ("a", "b", "c", "d", "e")
FIRST = "model.layers.0.mlp.down_proj.lora_A"


@pytest.fixture(scope="module")
def five(tmp_path_factory, llama):
    """A federation of five clients after one round. Read only."""
    federation = Federation(tmp_path_factory.mktemp("five"), llama, clients=CLIENTS)
    federation.play(1)
    return federation


def fold(federation, out, updates=None, *, reference=None, dry_run=False, **spec):
    return aggregate(
        federation.master(0), updates or federation.updates(0), packages=[federation.package(0)], out=out,
        spec=AggregateSpec(**spec), reference=reference, dry_run=dry_run,
    )  # fmt: skip


def set_first(value):
    def change(tensors):
        tensors[FIRST].view(-1)[0] = value
        return tensors

    return change


def scaled(factor):
    return lambda tensors: {name: factor * value for name, value in tensors.items()}


@pytest.fixture
def with_a_bad_one(five, tmp_path):
    """Four sound updates, and one with NaN."""
    bad = reforge(five.update(0, "e"), tmp_path / "bad.safetensors", change=set_first(math.nan))
    return [*five.updates(0)[:4], bad]


def test_without_a_quorum_one_bad_update_stops_the_round(five, with_a_bad_one, tmp_path):
    with pytest.raises(NotFiniteError, match=r"bad\.safetensors"):
        fold(five, tmp_path / "next", with_a_bad_one)
    assert not (tmp_path / "next").exists()


def test_with_a_quorum_it_is_left_out_and_told(five, with_a_bad_one, tmp_path):
    result = fold(five, tmp_path / "next.safetensors", with_a_bad_one, min_clients=4)
    good = fold(five, tmp_path / "good.safetensors", with_a_bad_one[:4], min_clients=4)
    assert result.sha256 == good.sha256
    assert sha256_of(with_a_bad_one[4]) not in header_of(tmp_path / "next.safetensors").parents["update"]
    (rejected,) = result.rejected
    assert (rejected.client, rejected.code, rejected.path) == ("e", "gate-not-finite", str(with_a_bad_one[4]))
    (told,) = read_report(tmp_path / "next.report.json").header.spec.rejected
    assert (told.client, told.code, told.update) == ("e", "gate-not-finite", sha256_of(with_a_bad_one[4]))
    assert FIRST in told.reason
    assert str(tmp_path) not in (tmp_path / "next.report.json").read_text()


def test_fewer_sound_updates_than_the_quorum_stop_it_with_all_that_is_wrong(five, with_a_bad_one, tmp_path):
    with pytest.raises(NotFiniteError, match=r"bad\.safetensors"):
        fold(five, tmp_path / "next", with_a_bad_one, min_clients=5)
    with pytest.raises(QuorumError, match="2 sound updates, --min-clients 3 asks for more"):
        fold(five, tmp_path / "next", five.updates(0)[:2], min_clients=3)


def test_what_an_owner_did_wrong_stops_the_round_whatever_the_quorum(five, with_a_bad_one, tmp_path):
    with pytest.raises(InputError):
        fold(five, tmp_path / "next", [*with_a_bad_one, tmp_path / "gone"], min_clients=1)
    again = shutil.copy(five.update(0, "a"), tmp_path / "again")
    with pytest.raises(DuplicateUpdateError, match="two updates of client 'a'"):
        fold(five, tmp_path / "next", [*with_a_bad_one, again], min_clients=1)
    stale = [reforge(path, tmp_path / path.name, round=4) for path in five.updates(0)]
    with pytest.raises(ReplayError, match="5 of 5 updates are refused"):
        fold(five, tmp_path / "next", stale, min_clients=1)


def test_files_that_are_no_updates_are_left_out_too(five, tmp_path):
    (tmp_path / "cut").write_bytes(five.update(0, "a").read_bytes()[:-10])
    (tmp_path / "text").write_text("hello")
    strangers = [tmp_path / "cut", tmp_path / "text", five.master(0)]
    result = fold(five, tmp_path / "next.safetensors", [*five.updates(0), *strangers], min_clients=5)
    assert result.sha256 == fold(five, tmp_path / "good.safetensors", min_clients=5).sha256
    assert {one.path: (one.client, one.update, one.code) for one in result.rejected} == {
        str(strangers[0]): (None, None, "artifact"),
        str(strangers[1]): (None, None, "artifact"),
        str(strangers[2]): (None, None, "lineage"),
    }
    assert "it is a master" in next(one.reason for one in result.rejected if one.code == "lineage")


def test_the_report_does_not_depend_on_the_order_or_names_of_files(five, with_a_bad_one, tmp_path):
    texts = []
    for number, order in enumerate(([0, 1, 2, 3, 4], [4, 2, 0, 3, 1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        renamed = [shutil.copy(with_a_bad_one[i], folder / f"{place}") for place, i in enumerate(order)]
        fold(five, folder / "next.safetensors", renamed, min_clients=2, rule="median")
        texts.append((folder / "next.report.json").read_bytes())
    assert texts[0] == texts[1]


RULES = {
    "mean": {}, "median": {"n_malicious": 2}, "trimmed-mean": {"n_malicious": 1}, "krum": {"n_malicious": 1},
    "multi-krum": {"n_malicious": 1}, "geometric-median": {}, "centered-clipping": {},
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_makes_a_sound_master_that_says_how(five, tmp_path, rule):
    result = fold(five, tmp_path / "next.safetensors", rule=rule, **RULES[rule])
    header = header_of(tmp_path / "next.safetensors")
    assert header.spec.aggregate == AggregateSpec(rule=rule, **RULES[rule])
    assert (result.sha256 == sha256_of(five.master(1))) == (rule == "mean")
    verify([tmp_path / "next.safetensors", five.master(0), *five.updates(0), five.package(0)], complete=True)


def test_krum_takes_one_clients_update_as_it_is(five, tmp_path):
    result = fold(five, tmp_path / "next.safetensors", rule="krum", n_malicious=1)
    (chosen,) = (one.client for one in result.clients if one.weight == 1)
    delta, theta = read_all(five.update(0, chosen)), read_all(five.master(0))
    for name, value in read_all(tmp_path / "next.safetensors").items():
        assert torch.equal(value, (theta[name].double() + delta[name].double()).float())
    assert [one.cosine for one in result.clients if one.client == chosen] == [1.0]


def test_fltrust_follows_the_owners_reference_and_names_it(five, tmp_path):
    own = five.update(0, "e")
    result = fold(five, tmp_path / "next.safetensors", five.updates(0)[:4], rule="fltrust", reference=own)
    assert result.n_clients == 4
    assert header_of(tmp_path / "next.safetensors").parents["reference"] == (sha256_of(own),)
    assert sha256_of(own) not in header_of(tmp_path / "next.safetensors").parents["update"]
    norm = math.sqrt(sum(value.double().square().sum().item() for value in read_all(own).values()))
    report = read_report(tmp_path / "next.report.json").header.spec
    assert report.mean_norm <= norm * (1 + 1e-6)
    verify([tmp_path / "next.safetensors", five.master(0), *five.updates(0), five.package(0)], complete=True)
    with pytest.raises(DuplicateUpdateError):
        fold(five, tmp_path / "x", rule="fltrust", reference=own)
    away = reforge(own, tmp_path / "away", change=lambda t: {n: v if n == FIRST else 0 * v for n, v in t.items()})
    others = [
        reforge(path, tmp_path / path.name, change=lambda t: {n: 0 * v if n == FIRST else v for n, v in t.items()})
        for path in five.updates(0)[:4]
    ]
    with pytest.raises(GateError, match="no update goes in the direction of the reference"):
        fold(five, tmp_path / "x", others, rule="fltrust", reference=away)


def test_a_bad_reference_stops_the_round(five, tmp_path):
    bad = reforge(five.update(0, "e"), tmp_path / "bad", change=set_first(math.inf))
    with pytest.raises(NotFiniteError, match="bad"):
        fold(five, tmp_path / "x", five.updates(0)[:4], rule="fltrust", reference=bad, min_clients=1)


CONFLICTS = {
    "the mean withstands nobody": ({"n_malicious": 1}, "--rule mean makes no promise"),
    "trimming nothing": ({"rule": "trimmed-mean"}, "needs --n-malicious"),
    "selecting all": ({"rule": "multi-krum"}, "needs --n-malicious"),
    "selecting and trimming nothing": ({"rule": "bulyan"}, "needs --n-malicious"),
    "weights of a median": ({"rule": "median", "weighting": "examples"}, "has no weights"),
    "shares of a median": ({"rule": "median", "max_share": 0.5}, "has no weights"),
    "two ways to clip": ({"clip_norm": 1.0, "clip_to_median": True}, "choose one"),
    "no reference": ({"rule": "fltrust"}, "go together"),
}


@pytest.mark.parametrize("conflict", CONFLICTS)
def test_options_that_do_not_go_together_are_told(five, tmp_path, conflict):
    spec, message = CONFLICTS[conflict]
    with pytest.raises(UsageError, match=message):
        fold(five, tmp_path / "next", **spec)


def test_a_reference_without_its_rule_is_told(five, tmp_path):
    with pytest.raises(UsageError, match="go together"):
        fold(five, tmp_path / "next", reference=five.update(0, "e"))


BOUNDS = {
    "median": (3, "5 sound updates, at least 2 x 3 . 1 = 7"),
    "trimmed-mean": (3, "at least 2 x 3 . 1 = 7"),
    "krum": (2, "at least 2 x 2 . 3 = 7"),
    "multi-krum": (2, "at least 2 x 2 . 3 = 7"),
    "bulyan": (1, "at least 4 x 1 . 3 = 7"),
    "geometric-median": (3, "at least 2 x 3 . 1 = 7"),
    "centered-clipping": (3, "at least 2 x 3 . 1 = 7"),
}


@pytest.mark.parametrize("rule", BOUNDS)
def test_too_few_clients_for_a_rule_are_told_with_what_is_needed(five, tmp_path, rule):
    n_malicious, message = BOUNDS[rule]
    with pytest.raises(QuorumError, match=message):
        fold(five, tmp_path / "next", rule=rule, n_malicious=n_malicious)


def test_rejected_updates_do_not_count_for_a_rules_bound(five, with_a_bad_one, tmp_path):
    fold(five, tmp_path / "a.safetensors", rule="krum", n_malicious=1)
    with pytest.raises(QuorumError, match=r"4 sound updates, at least 2 x 1 . 3 = 5"):
        fold(five, tmp_path / "b.safetensors", with_a_bad_one, rule="krum", n_malicious=1, min_clients=3)


def test_clipping_is_in_front_of_the_rule_and_reported(five, tmp_path):
    huge = reforge(five.update(0, "a"), tmp_path / "huge", change=scaled(1000))
    updates = [huge, *five.updates(0)[1:]]
    for clip in ({"clip_to_median": True}, {"clip_norm": 0.5}):
        result = fold(five, tmp_path / f"{next(iter(clip))}.safetensors", updates, **clip)
        norms = {one.client: one.update_norm * one.clip_factor for one in result.clients}
        limit = clip.get("clip_norm", sorted(one.update_norm for one in result.clients)[2])
        assert norms["a"] == pytest.approx(limit, rel=1e-5)
        assert max(norms.values()) <= limit * (1 + 1e-5)
        report = read_report(tmp_path / f"{next(iter(clip))}.report.json").header.spec
        assert report.mean_norm <= limit * (1 + 1e-5)


def test_no_client_has_more_than_its_share(five, tmp_path):
    free = fold(five, tmp_path / "a", weighting="examples", dry_run=True)
    result = fold(five, tmp_path / "a", weighting="examples", max_share=0.22, dry_run=True)
    assert max(one.weight for one in free.clients) == pytest.approx(0.28)
    assert max(one.weight for one in result.clients) == pytest.approx(0.22)
    assert sum(one.weight for one in result.clients) == pytest.approx(1)
    with pytest.raises(QuorumError, match=r"--max-share 0.1: 5 clients cannot"):
        fold(five, tmp_path / "a", max_share=0.1)


def test_the_norm_of_the_product_is_that_of_the_dense_change(five, tmp_path):
    result = fold(five, tmp_path / "a", dry_run=True)
    theta = read_all(five.master(0))
    p = {name: round_tensor(value, five.quantize, name=name).double() for name, value in theta.items()}
    for one in result.clients:
        after = {name: p[name] + value.double() for name, value in read_all(five.update(0, one.client)).items()}
        squares = sum(
            (after[f"{m}.lora_B"] @ after[f"{m}.lora_A"] - p[f"{m}.lora_B"] @ p[f"{m}.lora_A"]).square().sum().item()
            for m in {module_of(name) for name in p}
        )
        assert one.product_norm == pytest.approx(five.lora.scaling * math.sqrt(squares), rel=1e-5)


def test_a_product_can_grow_where_norms_of_factors_do_not(five, tmp_path):
    """A moves to where B is large: the same norm of the update, another change of the model."""

    def turn(tensors):
        return {name: value.flip(-1) if name.endswith("lora_A") else value for name, value in tensors.items()}

    turned = reforge(five.update(0, "a"), tmp_path / "turned", change=turn)
    before = {one.client: one for one in fold(five, tmp_path / "x", dry_run=True).clients}["a"]
    after = {one.client: one for one in fold(five, tmp_path / "x", [turned], dry_run=True).clients}["a"]
    assert after.update_norm == before.update_norm
    assert after.product_norm != before.product_norm


def test_errors_have_the_names_of_their_causes(five, tmp_path):
    wide = reforge(five.update(0, "a"), tmp_path / "w", change=lambda t: {**t, FIRST: t[FIRST][:, 1:]})
    with pytest.raises(LayoutError):
        fold(five, tmp_path / "x", [wide])
