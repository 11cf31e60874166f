"""Artifacts that do not belong together, by the command line: one clear line, an exit code, nothing written."""

import json

import pytest
from msgspec.structs import replace
from support.forge import reforge
from support.parties import RECIPE, Federation
from support.tiny import make_model, make_tokenizer

from fedlpp_cli import client_train, distill_publish, init, pack, quantize
from fedlpp_cli.artifact.folder import CARD, PROXY, open_folder, write_folder
from fedlpp_cli.artifact.run_folder import RoundPaths
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.records.headers import MasterHeader, PackageHeader, ProxyHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import LoraSpec, QuantSpec
from fedlpp_cli.records.transcripts import PublishSpec

ADAPTER = LoraSpec(rank=2, target_modules=("q_proj",))
SPEC = QuantSpec(bits="4", codebook="symmetric", block=16)


@pytest.fixture
def fails(runner):
    """Runs a command that fails, in text and in JSON; its exit code, the error's code and the line."""

    def run(*args):
        text, found = (runner.invoke(app, [*map(str, args), *more]) for more in ((), ("--json",)))
        error = json.loads(found.stdout)["error"]
        assert "Traceback" not in text.stderr + found.stderr
        assert "\n" not in error["message"]
        assert text.stderr.startswith("error: ")
        assert text.exit_code == found.exit_code == error["exit_code"]
        return found.exit_code, error["code"], error["message"]

    return run


@pytest.fixture(scope="module")
def rolora(tmp_path_factory, llama):
    """Two rounds, B and then A, of the same rows as `plain`."""
    made = Federation(
        tmp_path_factory.mktemp("rolora"), llama, clients=("a",), lora=ADAPTER, method="rolora", quantize=SPEC
    )
    made.play(2)
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory, llama):
    made = Federation(tmp_path_factory.mktemp("plain"), llama, clients=("a",), lora=ADAPTER, quantize=SPEC)
    made.play(1)
    return made


def repacked(source, target, **fields):
    """A copy of a package whose manifest says something else, and fits its files."""
    found = open_folder(source, PackageHeader)
    contents = {name: source / name for name in (PROXY, CARD)}
    write_folder(target, contents, lambda files: replace(found.header, **{"files": files, **fields}))
    return target


def train(federation, package, out, *options):
    return [
        "client-train", package, "--client", "a", "--data", federation.data("a"), "--base", federation.base,
        "--device", "cpu", *options, "--out", out,
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["fedlpp", "sorcery"])
def test_a_package_that_says_another_method_than_its_proxy(fails, rolora, tmp_path, method):
    package = repacked(rolora.package(0), tmp_path / "package", method=method)
    for call in (train(rolora, package, tmp_path / "out"), train(rolora, package, tmp_path / "out", "--dry-run")):
        code, name, line = fails(*call)
        assert (code, name) == (5, "lineage")
        assert "the proxy in it belongs to another federation, round or method" in line
    assert fails("verify", package)[:2] == (5, "lineage")
    assert not (tmp_path / "out").exists()


def test_an_update_of_one_method_for_the_master_of_another(fails, rolora, plain, tmp_path):
    out = ["--out", tmp_path / "out"]
    code, name, line = fails("aggregate", plain.master(0), rolora.update(0, "a"), "--package", plain.package(0), *out)
    assert (code, name) == (5, "lineage-replay")
    assert "of federation" in line
    forged = reforge(rolora.update(0, "a"), tmp_path / "forged", method="ffa-lora")
    code, name, line = fails("aggregate", rolora.master(0), forged, "--package", rolora.package(0), *out)
    assert (code, name) == (5, "lineage-replay")
    assert "of method 'ffa-lora', the master has 'rolora'" in line
    code, name, line = fails("aggregate", rolora.master(0), rolora.update(0, "a"), "--package", plain.package(0), *out)
    assert (code, name) == (5, "lineage")
    assert not (tmp_path / "out").exists()


def test_an_update_of_the_other_factor(fails, rolora, tmp_path):
    """What a client trained in the round of A, sent as if it was of the round of B."""
    code, name, line = fails(
        "aggregate", rolora.master(0), rolora.update(1, "a"), "--package", rolora.package(0), "--out", tmp_path / "out"
    )
    assert (code, name) == (5, "lineage-replay")
    assert "of round 1, the master is of round 0" in line


def test_a_master_of_a_method_that_is_not_known_here(fails, rolora, tmp_path):
    unknown = reforge(rolora.master(0), tmp_path / "master", kind=MasterHeader, method="sorcery")
    code, name, line = fails("quantize", unknown, "--out", tmp_path / "out")
    assert (code, name) == (5, "lineage")
    assert "of method 'sorcery', this fedlpp knows " in line
    assert not (tmp_path / "out").exists()


def test_a_method_that_there_is_not_and_one_that_the_run_is_not_of(fails, rolora, plain, tmp_path):
    code, name, line = fails("init", "--base", rolora.base, "--method", "sorcery", "--out", tmp_path / "out")
    assert (code, name) == (2, "usage")
    assert "--method sorcery: choose from " in line
    (tmp_path / "f.toml").write_text(f'seed = 7\nbase = "{plain.base}"\n[clients]\na = "{plain.data("a")}"\n')
    code, name, line = fails(
        "simulate", "-f", tmp_path / "f.toml", "--method", "rolora", "--out", plain.folder, "--rounds", 2
    )
    assert (code, name) == (5, "lineage")
    assert "of method 'fedlpp', not 'rolora'" in line
    assert not plain.proxy(1).exists()


def test_a_transcript_whose_vocabulary_is_another_one(fails, plain, tmp_path):
    distill_publish(
        plain.master(1),
        out=tmp_path / "t",
        teacher="owner",
        base=plain.base,
        spec=PublishSpec(n_inputs=4),
        device="cpu",
    )
    make_model(tmp_path / "other", "gpt2")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(tmp_path / "other")
    code, name, line = fails(
        "distill", "train", "--student", tmp_path / "other", "--transcript", tmp_path / "t", "--steps", 1,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert (code, name) == (5, "lineage")
    assert "its vocabulary is " in line
    assert "with 35 tokens, the student's" in line
    assert not (tmp_path / "out").exists()


def test_more_outcomes_than_the_vocabulary_has(fails, plain, tmp_path):
    publish = ("distill", "publish", plain.master(1), "--base", plain.base, "--teacher", "x", "--random")
    code, name, line = fails(*publish, "--top-k", 36, "--out", tmp_path / "out")
    assert (code, name, line) == (2, "usage", "--top-k 36: there are 35 tokens in the vocabulary")
    assert fails(*publish, "--top-k", 0, "--out", tmp_path / "out")[0] in (2, 3)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def masked(tmp_path_factory, llama):
    """Two federations of one client that differ in their seed, and so in their masks: the first rounds of both."""
    made = []
    for seed in (7, 8):
        folder = tmp_path_factory.mktemp(f"masked-{seed}")
        federation = Federation(folder, llama, clients=("a",), lora=ADAPTER, quantize=SPEC)
        init(llama, out=federation.master(0), task=federation.task, lora=ADAPTER, seed=seed)
        paths = RoundPaths(folder, 0)
        mask = MaskSpec(client=0.5)
        quantize(federation.master(0), out=paths.proxy_for("a"), spec=SPEC, mask=mask, client="a")
        pack(paths.proxy_for("a"), out=paths.package_for("a"), train=RECIPE, ledger=folder / "releases.jsonl")
        made.append(federation)
    return made


def test_masks_of_another_federation(fails, masked, tmp_path):
    """As they are, and with the header of this federation over the rows of the other."""
    ours = masked[0]
    mine, other = (RoundPaths(one.folder, 0) for one in masked)
    with TensorFile(mine.proxy_for("a"), ProxyHeader) as proxy:
        header = proxy.header
    forged = reforge(
        other.proxy_for("a"), tmp_path / "proxy", kind=ProxyHeader, federation=header.federation, parents=header.parents
    )
    pack(forged, out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    for package, name in ((tmp_path / "package", "forged"), (other.package_for("a"), "theirs")):
        client_train(package, client="a", data=ours.data("a"), out=tmp_path / name, base=ours.base, device="cpu")
    out = ["--out", tmp_path / "next"]
    code, name, line = fails("aggregate", ours.master(0), tmp_path / "forged", "--package", tmp_path / "package", *out)
    assert (code, name) == (5, "lineage")
    assert "masks of another federation" in line
    code, name, line = fails(
        "aggregate", ours.master(0), tmp_path / "theirs", "--package", other.package_for("a"), *out
    )
    assert (code, name) == (5, "lineage")
    assert "its master is " in line
    assert not (tmp_path / "next").exists()
