"""`pack` and the release ledger: one rounding of a master goes out, and no second one."""

import shutil
import signal
import subprocess
import sys

import pytest
from msgspec.structs import replace
from support.forge import header_of, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import evaluate, pack, quantize
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.release_ledger import default_ledger, record_releases
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError, DigestError, LineageError, OutputExistsError, SecondReleaseError
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec, TrainSpec

STOCHASTIC = QuantSpec(rounding="stochastic", rounding_seed="spring", scale_rounding="up")
# Packs a proxy. "killed": the process dies between the ledger's line and the package; "ready": it waits for a line.
PACKER = """
import os, signal, sys
from fedlpp_cli import errors
from fedlpp_cli.steps import pack as step

how, proxy, ledger, out = sys.argv[1:]
if how == "killed":
    step.write_folder = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
else:
    print("ready", flush=True)
    sys.stdin.readline()
try:
    step.pack(proxy, out=out, ledger=ledger)
except errors.FedlppError as error:
    sys.exit(error.exit_code)
"""


@pytest.fixture
def roundings(played, tmp_path):
    """Proxies of one master: 3 bits, another seed or format each."""
    specs = {
        "first": QuantSpec(),
        "bits": QuantSpec(bits="4"),
        "up": QuantSpec(scale_rounding="up"),
        "spring": STOCHASTIC,
        "autumn": replace(STOCHASTIC, rounding_seed="autumn"),
    }
    for name, spec in specs.items():
        quantize(played.master(1), out=tmp_path / name, spec=spec)
    return {name: tmp_path / name for name in specs}


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "releases.jsonl"


def lines(ledger):
    return ledger.read_bytes().splitlines()


@pytest.mark.parametrize("first", ["first", "spring"])
def test_a_second_rounding_of_a_master_is_refused_and_the_first_goes_out_again(roundings, ledger, tmp_path, first):
    made = pack(roundings[first], out=tmp_path / "p", ledger=ledger)
    assert made.ledger == str(ledger)
    before = ledger.read_bytes()
    for name in set(roundings) - {first}:
        for options in ({}, {"force": True}, {"client": "b"}, {"dry_run": True}):
            with pytest.raises(SecondReleaseError, match=f"was released as proxy {sha256_of(roundings[first])[:12]}…"):
                pack(roundings[name], out=tmp_path / "second", ledger=ledger, **options)
    assert not (tmp_path / "second").exists()
    pack(roundings[first], out=tmp_path / "for-b", ledger=ledger, client="b", train=TrainSpec(steps=1))
    assert pack(roundings[first], out=tmp_path / "p", ledger=ledger, force=True).sha256 == made.sha256
    assert ledger.read_bytes() == before
    assert len(lines(ledger)) == 1


def test_another_master_goes_out_in_any_rounding(roundings, played, ledger, tmp_path):
    pack(roundings["first"], out=tmp_path / "1", ledger=ledger)
    pack(played.proxy(0), out=tmp_path / "0", ledger=ledger)
    assert len(lines(ledger)) == 2


def test_unless_told_otherwise_the_ledger_is_the_federations_in_the_users_state_folder(roundings, played, tmp_path):
    federation = header_of(played.proxy(0)).federation
    made = pack(roundings["first"], out=tmp_path / "p")
    assert made.ledger == str(default_ledger(federation)) == str(tmp_path / f"fedlpp-state/releases/{federation}.jsonl")
    assert len(lines(default_ledger(federation))) == 1


def test_a_dry_run_writes_no_line_and_neither_does_an_output_that_exists(roundings, ledger, tmp_path):
    assert pack(roundings["first"], out=tmp_path / "p", ledger=ledger, dry_run=True).ledger == str(ledger)
    (tmp_path / "p").mkdir()
    with pytest.raises(OutputExistsError):
        pack(roundings["first"], out=tmp_path / "p", ledger=ledger)
    assert not ledger.exists()


def test_a_damaged_ledger_stops_pack_before_anything_is_written(roundings, ledger, tmp_path):
    ledger.write_bytes(b'{"about":"adap')
    for dry_run in (False, True):
        with pytest.raises(ArtifactError, match=r"releases\.jsonl: line 1: not valid JSON"):
            pack(roundings["first"], out=tmp_path / "p", ledger=ledger, dry_run=dry_run)
    assert not (tmp_path / "p").exists()
    assert ledger.read_bytes() == b'{"about":"adap'


def test_a_proxy_of_no_master_is_refused(played, ledger, tmp_path):
    orphan = reforge(played.proxy(0), tmp_path / "orphan", kind=ProxyHeader, parents={})
    with pytest.raises(LineageError, match="does not say of which master it is the proxy"):
        pack(orphan, out=tmp_path / "p", ledger=ledger)
    assert not ledger.exists()


def test_a_proxy_that_is_replaced_while_it_is_packed_does_not_go_out(roundings, ledger, tmp_path, monkeypatch):
    from fedlpp_cli.steps import pack as step

    def overtaken(path, releases):
        record_releases(path, releases)
        roundings["autumn"].replace(roundings["spring"])

    monkeypatch.setattr(step, "record_releases", overtaken)
    with pytest.raises(DigestError, match=r"proxy\.safetensors: what was copied is not what the release ledger notes"):
        pack(roundings["spring"], out=tmp_path / "p", ledger=ledger)
    assert not (tmp_path / "p").exists()


def packer(how, proxy, ledger, out):
    return subprocess.Popen(
        [sys.executable, "-c", PACKER, how, str(proxy), str(ledger), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def test_a_kill_between_ledger_and_package_leaves_the_line_and_the_next_run_passes(roundings, ledger, tmp_path):
    with packer("killed", roundings["spring"], ledger, tmp_path / "p") as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "p").exists()
    assert len(lines(ledger)) == 1
    with pytest.raises(SecondReleaseError):
        pack(roundings["autumn"], out=tmp_path / "p", ledger=ledger)
    pack(roundings["spring"], out=tmp_path / "p", ledger=ledger)
    assert len(lines(ledger)) == 1


def test_of_several_packs_of_several_roundings_at_once_exactly_one_goes_out(roundings, ledger, tmp_path):
    processes = {name: packer("ready", proxy, ledger, tmp_path / f"p-{name}") for name, proxy in roundings.items()}
    for process in processes.values():
        assert process.stdout.readline() == "ready\n"
    for process in processes.values():
        process.stdin.write("go on\n")
        process.stdin.flush()
    found = {name: process.wait() for name, process in processes.items()}
    for process in processes.values():
        process.stdin.close()
        process.stdout.close()
    assert sorted(found.values()) == [0, 7, 7, 7, 7]
    [winner] = [name for name, code in found.items() if code == 0]
    assert [path.name for path in tmp_path.glob("p-*")] == [f"p-{winner}"]
    assert sha256_of(roundings[winner]).encode() in lines(ledger)[0]


def test_another_copy_of_a_private_base_is_refused_in_any_round(llama, ledger, tmp_path):
    federation = Federation(tmp_path / "run", llama, private_base=True)
    federation.init()
    first = sha256_of(federation.master(0))
    later = reforge(
        federation.master(0), tmp_path / "later", kind=MasterHeader, federation=first, round=1,
        parents={"master": (first,)},
    )  # fmt: skip
    bases = {"nf4": BaseQuantSpec(), "fp4": BaseQuantSpec(format="fp4")}
    proxies = {}
    for round_name, master in (("0", federation.master(0)), ("1", later)):
        for name, spec in bases.items():
            proxies[round_name, name] = tmp_path / f"proxy-{round_name}-{name}"
            quantize(master, out=proxies[round_name, name], base=llama, base_out=tmp_path / name, base_spec=spec)

    def send(round_name, name):
        proxy, out = proxies[round_name, name], tmp_path / f"package-{round_name}-{name}"
        pack(proxy, out=out, base_artifact=tmp_path / name, ledger=ledger)

    send("0", "nf4")
    assert [line[:17] for line in lines(ledger)] == [b'{"about":"adapter', b'{"about":"base","']
    before = ledger.read_bytes()
    with pytest.raises(SecondReleaseError, match=r"the private base of federation \w+… was released as base artifact"):
        send("1", "fp4")
    assert ledger.read_bytes() == before, "a refused base takes the adapter's line with it"
    send("1", "nf4")
    assert len(lines(ledger)) == 3


def test_a_stochastic_proxy_is_what_the_quantizer_says_and_the_same_every_time(played, roundings, tmp_path):
    quantize(played.master(1), out=tmp_path / "again", spec=STOCHASTIC)
    assert (tmp_path / "again").read_bytes() == roundings["spring"].read_bytes()
    assert header_of(roundings["spring"]).spec.quantize == STOCHASTIC
    with TensorFile(played.master(1), MasterHeader) as master, TensorFile(roundings["spring"], ProxyHeader) as proxy:
        for name in master.tensors:
            assert read_component(proxy, name).equal(round_tensor(master.read(name), STOCHASTIC, name=name))


def test_a_round_with_stochastic_proxies_runs_and_evaluate_rounds_the_next_one_alike(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, quantize=STOCHASTIC)
    federation.play(1)
    quantize(federation.master(1), out=federation.proxy(1), spec=STOCHASTIC)
    options = {"data": federation.data("b"), "base": llama, "device": "cpu"}
    guessed = evaluate([federation.master(1)], **options).rows[1]
    assert guessed.detail == "round 1, 3 bits, block 64, stochastic"
    assert evaluate([federation.proxy(1)], **options).rows[1].scores == guessed.scores
    nearest = evaluate([federation.master(1)], **options, quantize=QuantSpec()).rows[1]
    assert nearest.scores != guessed.scores


def test_the_ledger_in_a_runs_folder_is_no_artifact_and_in_nobodys_way(played, tmp_path):
    from fedlpp_cli import log, status, verify

    run = shutil.copytree(played.folder, tmp_path / "run")
    assert (run / "releases.jsonl").is_file()
    assert verify([run], complete=True).missing == 0
    assert len(log(run).rounds) == 2
    (run / "round-0001" / "proxy.safetensors").write_bytes(played.proxy(0).read_bytes())
    assert f"--ledger {run}/releases.jsonl " in status(run).next
    (run / "releases.jsonl").unlink()
    assert "--ledger" not in status(run).next
