"""What a malicious client can send, each with the error code that scripts see, and whether the round can go on.

The numbers are those of the threats to an owner: what an update holds, what it says of itself, and who sends it.
"""

import json
import math
import os
import shutil

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli.artifact import tensor_header
from fedlpp_cli.cli.app import app

FIRST = "model.layers.0.mlp.down_proj.lora_A"
CLIENTS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def four(tmp_path_factory, llama):
    """Four clients of one round, trained on a package with a limit for norms. Read only."""
    federation = Federation(tmp_path_factory.mktemp("four"), llama, clients=CLIENTS)
    federation.train = replace(federation.train, max_update_norm=10.0)
    federation.play(1)
    return federation


@pytest.fixture
def aggregate(four, runner, tmp_path):
    """Runs the command on updates; exit code, and the envelope's data or error."""

    def run(updates, *options, out="next.safetensors", package=None):
        arguments = [
            "aggregate", four.master(0), *updates, "--package", package or four.package(0), "--out", tmp_path / out,
            "--json", "--force", *options,
        ]  # fmt: skip
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert "Traceback" not in result.stderr
        envelope = json.loads(result.stdout)
        return result.exit_code, envelope.get("data") or envelope["error"]

    return run


def setting(value):
    def change(tensors):
        tensors[FIRST].view(-1)[3] = value
        return tensors

    return change


def times(factor):
    return lambda tensors: {name: factor * value for name, value in tensors.items()}


def forged(**fields):
    return lambda four, path: reforge(four.update(0, "d"), path, **fields)


def with_metadata(four, path):
    """A second metadata entry: what an adapter's configuration would be put into."""
    raw = four.update(0, "d").read_bytes()
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    header["__metadata__"]["adapter_config.json"] = '{"base_model_name_or_path": "evil/model"}'
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n_header :])
    return path


def with_client(name):
    """An update whose header says that it is from somebody with that name, whatever the writer would allow."""

    def make(four, path):
        raw = four.update(0, "d").read_bytes()
        n_header = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + n_header])
        own = json.loads(header["__metadata__"]["fedlpp"])
        own["spec"]["client"] = name
        header["__metadata__"]["fedlpp"] = json.dumps(own, sort_keys=True, separators=(",", ":"))
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n_header :])
        return path

    return make


def bomb(four, path):
    """Says in its header that it is a terabyte, and is."""
    shutil.copy(four.update(0, "d"), path)
    os.truncate(path, 2**40)
    return path


def as_folder(four, path):
    """A PEFT adapter instead of an update."""
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    return path


THREATS = {
    "C1 NaN": (6, "gate-not-finite", forged(change=setting(math.nan))),
    "C1 infinity": (6, "gate-not-finite", forged(change=setting(math.inf))),
    "C2 a huge norm": (6, "gate-norm", forged(change=times(100))),
    "C3 a missing tensor": (5, "lineage-layout", forged(change=lambda t: dict(list(t.items())[1:]))),
    "C3 a tensor more": (5, "lineage-layout", forged(change=lambda t: {**t, "x": torch.ones(1)})),
    "C3 another rank": (5, "lineage-layout", forged(change=lambda t: {**t, FIRST: t[FIRST][:2]})),
    "C3 another type": (5, "lineage-layout", forged(change=lambda t: {**t, FIRST: t[FIRST].half()})),
    "C4 a configuration in it": (4, "artifact", with_metadata),
    "C7 of an older round": (5, "lineage-replay", forged(round=3)),
    "C7 of another federation": (5, "lineage-replay", forged(federation="0" * 64)),
    "C7 of another package": (5, "lineage-replay", forged(parents={"package": ("0" * 64,)})),
    "C10 nothing in it": (6, "gate-unchanged", forged(change=times(0))),
    "C11 a terabyte": (4, "artifact", bomb),
    "C12 a name that steers a terminal": (4, "artifact", with_client("d\x1b[2J")),
    "C12 a name with markup": (4, "artifact", with_client("[red]d[/red]")),
    "C12 a name that is a path": (4, "artifact", with_client("../../etc/passwd")),
}


@pytest.mark.parametrize("threat", THREATS)
def test_an_update_that_must_not_be_used_has_a_code_of_its_own_and_the_round_can_go_on(
    four, aggregate, tmp_path, threat
):
    exit_code, code, make = THREATS[threat]
    bad = make(four, tmp_path / "bad")
    sound = four.updates(0)[:3]
    found, error = aggregate([*sound, bad])
    assert (found, error["code"], error["exit_code"]) == (exit_code, code, exit_code)
    assert str(bad) in error["message"]
    assert error["message"].isprintable()
    assert not (tmp_path / "next.safetensors").exists()

    found, result = aggregate([*sound, bad], "--min-clients", 3)
    assert found == 0
    assert [one["code"] for one in result["rejected"]] == [code]
    assert result["sha256"] == aggregate(sound, "--min-clients", 3, out="good.safetensors")[1]["sha256"]
    assert aggregate([*sound, bad], "--min-clients", 4)[1]["code"] == code


def test_c4_a_folder_is_no_update_and_stops_the_round(four, aggregate, tmp_path):
    for options in ([], ["--min-clients", 1]):
        exit_code, error = aggregate(
            [*four.updates(0)[:3], as_folder(four, tmp_path / f"peft{len(options)}")], *options
        )
        assert (exit_code, error["code"]) == (3, "input")


def test_c5_c14_a_second_update_of_a_client_stops_the_round_whatever_the_quorum(four, aggregate, tmp_path):
    later = reforge(four.update(0, "d"), tmp_path / "later", change=times(0.5))
    for options in ([], ["--min-clients", 2]):
        exit_code, error = aggregate([*four.updates(0), later], *options)
        assert (exit_code, error["code"]) == (5, "lineage-duplicate")


def test_c6_claimed_examples_count_for_nothing_for_a_cap_or_for_a_share(four, aggregate, tmp_path):
    spec = header_of(four.update(0, "d")).spec
    greedy = reforge(
        four.update(0, "d"), tmp_path / "d", spec=replace(spec, metrics=replace(spec.metrics, n_examples=10**9))
    )
    updates = [*four.updates(0)[:3], greedy]

    def weight(*options):
        return {one["client"]: one["weight"] for one in aggregate(updates, *options)[1]["clients"]}["d"]

    assert weight() == 0.25
    assert weight("--weighting", "examples") > 0.999
    assert weight("--weighting", "examples", "--max-examples", 20) == pytest.approx(20 / 68, rel=1e-5)
    assert weight("--weighting", "examples", "--max-share", 0.4) == pytest.approx(0.4)
    exit_code, error = aggregate(updates, "--weighting", "examples", "--max-share", 0.2)
    assert (exit_code, error["code"]) == (6, "gate-quorum")


def test_c8_who_got_no_package_of_its_own_cannot_answer_anothers(four, aggregate, runner, tmp_path, llama):
    def run(*arguments):
        assert runner.invoke(app, [str(argument) for argument in arguments]).exit_code == 0

    run("pack", four.proxy(0), "--steps", 2, "--client", "a", "--out", tmp_path / "for-a")
    run(
        "client-train", tmp_path / "for-a", "--client", "a", "--base", llama, "--data", four.data("a"),
        "--device", "cpu", "--out", tmp_path / "a",
    )  # fmt: skip
    stolen = reforge(tmp_path / "a", tmp_path / "z", spec=replace(header_of(tmp_path / "a").spec, client="z"))
    exit_code, error = aggregate([stolen], package=tmp_path / "for-a")
    assert (exit_code, error["code"]) == (5, "lineage-client")
    assert aggregate([tmp_path / "a"], package=tmp_path / "for-a")[0] == 0


def test_c2_c9_one_scaled_update_moves_the_mean_and_not_a_clipped_or_robust_one(four, aggregate, tmp_path):
    loud = reforge(four.update(0, "d"), tmp_path / "d", change=times(-10))
    updates = [*four.updates(0)[:3], loud]
    theta, honest = read_all(four.master(0)), [read_all(path) for path in four.updates(0)[:3]]
    center = {name: sum(one[name] for one in honest) / 3 for name in theta}

    def distance(*options):
        assert aggregate(updates, *options)[0] == 0
        found = read_all(tmp_path / "next.safetensors")
        return math.sqrt(sum((found[n] - theta[n] - center[n]).square().sum().item() for n in theta))

    mean = distance()
    for options in (["--clip-to-median"], ["--rule", "median"], ["--rule", "geometric-median"]):
        assert distance(*options) < mean / 3


def test_c13_what_does_not_fit_into_a_master_is_not_written(four, runner, tmp_path, aggregate):
    package = tmp_path / "package"
    assert runner.invoke(app, ["pack", str(four.proxy(0)), "--steps", "2", "--out", str(package)]).exit_code == 0
    parents = {"package": (sha256_of_package(package),), "proxy": (sha256_of(four.proxy(0)),)}
    loud = [
        reforge(four.update(0, name), tmp_path / name, parents=parents, change=setting(3e38)) for name in ("a", "b")
    ]
    exit_code, error = aggregate(loud, "--server-learning-rate", 2, package=package)
    assert (exit_code, error["code"]) == (6, "gate-not-finite")
    assert not (tmp_path / "next.safetensors").exists()
    tiny = [
        reforge(four.update(0, name), tmp_path / f"{name}-", parents=parents, change=setting(1e-45)) for name in "ab"
    ]
    assert aggregate(tiny, package=package)[0] == 0


def sha256_of_package(package):
    from fedlpp_cli.artifact.digest import sha256_of_file

    return sha256_of_file(package / "manifest.json")


def test_the_table_names_who_was_left_out_and_why(four, runner, tmp_path):
    bad = reforge(four.update(0, "d"), tmp_path / "bad", change=setting(math.nan))
    call = [
        "aggregate", four.master(0), *four.updates(0)[:3], bad, "--package", four.package(0), "--min-clients", 3,
        "--rule", "trimmed-mean", "--n-malicious", 1, "--clip-to-median", "--out", tmp_path / "next",
    ]  # fmt: skip
    result = runner.invoke(app, [str(one) for one in call])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "trimmed-mean with 1 malicious, clipped to the median norm, update rule 1" in result.stdout
    assert "gate-not-finite" in result.stdout
    assert "left out" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1] == str(tmp_path / "next")


def test_the_federation_file_has_the_rule_too(four, aggregate, tmp_path):
    (tmp_path / "f.toml").write_text('[aggregate]\nrule = "trimmed-mean"\nn_malicious = 1\nmin_clients = 2\n')
    spec = aggregate(four.updates(0), "-f", tmp_path / "f.toml")[1]["aggregate"]
    assert (spec["rule"], spec["n_malicious"], spec["min_clients"]) == ("trimmed-mean", 1, 2)
    exit_code, error = aggregate(four.updates(0), "--rule", "average")
    assert (exit_code, error["code"]) == (2, "usage")


def test_the_hostile_files_here_are_still_read_as_files(four, tmp_path):
    """The forged headers are refused for what they say, not for how they are framed."""
    assert set(tensor_header.read_infos(with_client("[red]d[/red]")(four, tmp_path / "x"))) == set(
        read_all(four.update(0, "d"))
    )
