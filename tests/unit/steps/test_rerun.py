"""verify --rerun: whoever holds the inputs computes an aggregate again."""

import json
import tempfile

import pytest
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import verify
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import RerunError, UsageError
from fedlpp_cli.records.headers import PRODUCER, MasterHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory, llama):
    """With update rule 4, whose result depends on the header's spec and on the round. Read only."""
    federation = Federation(
        tmp_path_factory.mktemp("two"), llama, aggregate=AggregateSpec(update_rule=4, n_rounds=3),
        round_updates=QuantSpec(bits="4"),
    )  # fmt: skip
    federation.play(2)
    return federation


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def inputs(federation, number):
    return [federation.master(number), federation.package(number), *federation.updates(number)]


def forge(made, path, **options):
    """A master of round 1 that names the right inputs."""
    return reforge(made.master(1), path, kind=MasterHeader, **options)


def test_every_aggregate_of_a_run_comes_out_the_same(two_rounds):
    first, second = verify([two_rounds.folder], complete=True, rerun=True).reruns
    assert [(one.round, one.outcome, one.n_missing) for one in (first, second)] == [(1, "equal", 0), (2, "equal", 0)]
    assert first.sha256 == first.recomputed == sha256_of(two_rounds.master(1))
    assert verify([two_rounds.folder]).reruns == ()


def test_a_master_with_another_value_is_refused_by_the_tensors_name(two_rounds, tmp_path):
    def moved(tensors):
        name = sorted(tensors)[1]
        tensors[name].view(-1)[0] += 1e-3
        return tensors

    forged = forge(two_rounds, tmp_path / "forged.safetensors", change=moved)
    name = sorted(read_all(forged))[1]
    with pytest.raises(RerunError) as caught:
        verify([forged, *inputs(two_rounds, 0)], rerun=True)
    message = str(caught.value)
    assert f"tensor {name} differ" in message
    assert sha256_of(forged)[:12] in message
    assert sha256_of(two_rounds.master(1))[:12] in message
    assert caught.value.exit_code == 4


def test_a_header_that_says_something_else_of_the_same_tensors_is_refused(two_rounds, tmp_path):
    spec = header_of(two_rounds.master(1)).spec
    lie = replace(spec, quantize=replace(spec.quantize, bits="8"))
    forged = forge(two_rounds, tmp_path / "forged.safetensors", spec=lie)
    with pytest.raises(RerunError, match=r"spec\.quantize\.bits differ$"):
        verify([forged, *inputs(two_rounds, 0)], rerun=True)
    lie = replace(spec, aggregate=replace(spec.aggregate, server_learning_rate=0.5))
    forged = forge(two_rounds, tmp_path / "other.safetensors", spec=lie)
    with pytest.raises(RerunError, match=r"tensor .* and [0-9]+ more differ$"):
        verify([forged, *inputs(two_rounds, 0)], rerun=True)


def test_all_that_differ_are_told_at_once(two_rounds, tmp_path):
    spec = header_of(two_rounds.master(1)).spec
    forged = [
        forge(two_rounds, tmp_path / f"{bits}.safetensors", spec=replace(spec, quantize=QuantSpec(bits=bits)))
        for bits in ("2", "4")
    ]
    with pytest.raises(RerunError, match=r"2 of 2 aggregates come out otherwise:\n  .*\n  "):
        verify([*forged, *inputs(two_rounds, 0)], rerun=True)


@pytest.mark.parametrize("fields", [{"producer": "fedlpp 9.9.9"}, {"format": "1.0", "producer": "fedlpp 0.0.1"}])
def test_the_writers_version_is_told_and_no_difference(two_rounds, tmp_path, fields):
    forged = forge(two_rounds, tmp_path / "forged.safetensors", **fields)
    (found,) = verify([forged, *inputs(two_rounds, 0)], rerun=True).reruns
    assert (found.outcome, found.producer) == ("other-producer", fields["producer"])
    assert found.sha256 != found.recomputed == sha256_of(two_rounds.master(1))
    assert header_of(two_rounds.master(1)).producer == PRODUCER


def test_missing_inputs_are_counted_and_never_passed_over(two_rounds):
    some = [*inputs(two_rounds, 0), two_rounds.master(1), two_rounds.master(2), two_rounds.update(1, "a")]
    first, second = verify(some, rerun=True).reruns
    assert (first.outcome, first.recomputed, first.n_missing) == ("equal", first.sha256, 0)
    assert (second.outcome, second.recomputed, second.n_missing) == ("inputs-missing", None, 2)
    with pytest.raises(UsageError, match=r"1 of the inputs of .* are not among the artifacts"):
        verify([two_rounds.master(1), *inputs(two_rounds, 0)[:-1]], rerun=True)


def test_where_there_is_nothing_to_compute_that_is_an_error(two_rounds):
    with pytest.raises(UsageError, match="no master among the artifacts was made by aggregate"):
        verify(inputs(two_rounds, 0), rerun=True)


def test_on_the_command_line(runner, two_rounds, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    call = ["verify", "--rerun", str(two_rounds.folder)]
    shown = runner.invoke(app, call)
    assert shown.exit_code == 0
    assert shown.stdout.rstrip().endswith("equal")
    found = json.loads(runner.invoke(app, [*call, "--json"]).stdout)["data"]["reruns"]
    assert [one["outcome"] for one in found] == ["equal", "equal"]
    forged = forge(two_rounds, tmp_path / "forged.safetensors", producer="fedlpp 9.9.9")
    given = [str(one) for one in (forged, *inputs(two_rounds, 0), two_rounds.master(2))]
    shown = runner.invoke(app, ["verify", "--rerun", *given]).stdout
    assert "equal but for its producer, fedlpp 9.9.9" in shown
    assert "not computed: 4 inputs are not among them" in shown
    forged = forge(two_rounds, tmp_path / "worse.safetensors", federation="0" * 64, change=_halved)
    result = runner.invoke(app, ["verify", "--rerun", "--json", str(forged), *map(str, inputs(two_rounds, 0))])
    assert result.exit_code == 5  # it does not even belong to them
    forged = forge(two_rounds, tmp_path / "worst.safetensors", change=_halved)
    result = runner.invoke(app, ["verify", "--rerun", "--json", str(forged), *map(str, inputs(two_rounds, 0))])
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (4, "artifact-rerun")


def _halved(tensors):
    return {name: tensor / 2 for name, tensor in tensors.items()}
