"""A federation whose tensors have several widths: every command reads them, and what does not fit is refused."""

import json

import pytest
from support.forge import header_of, read_all, sha256_of
from support.parties import Federation

from fedlpp_cli import evaluate, inspect, log, pack, quantize, simulate, status, verify
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import SecondReleaseError, SettingsError, UsageError
from fedlpp_cli.leakage.intervals import read_bounds
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import PackageSpec, ProxyHeader
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import QuantSpec, TrainSpec

GROUPS = {"lora_B": "4", "layers.0": "full", "layers.1.self_attn.q_proj.lora_A": "ternary"}
SPEC = QuantSpec(bits="2", block=16, groups=GROUPS)
SCAFFOLD = TrainSpec(steps=2, batch_size=4, optimizer="sgd", learning_rate=0.1, weight_decay=0.0, control_variates=True)


@pytest.fixture(scope="module", params=["plain", "scaffold"])
def federation(request, tmp_path_factory, llama):
    made = Federation(tmp_path_factory.mktemp("groups"), llama, quantize=SPEC)
    if request.param == "scaffold":
        made.train, made.keep_states = SCAFFOLD, True
    made.play(2)
    return made


def test_rounds_are_played_and_every_reader_agrees(federation):
    master = read_all(federation.master(1))
    with TensorFile(federation.proxy(1), ProxyHeader) as proxy:
        for name in proxy.header.spec.shapes:
            expected = round_tensor(master[name], SPEC.of(name), name=name)
            assert read_component(proxy, name).equal(expected)
            low, high = read_bounds(proxy, name)
            assert (low <= master[name]).all()
            assert (master[name] <= high).all()
    widths = {group.group: group.bits_per_parameter for group in inspect(federation.package(1)).groups}
    assert widths["q_proj.lora_B"] > widths["q_proj.lora_A"] > 16  # one layer of two in full precision
    assert verify([federation.folder], rerun=True).missing == 0
    assert [(entry.bits, entry.groups) for entry in log(federation.folder).rounds[:2]] == [("2", GROUPS)] * 2
    assert status(federation.folder).round == 2
    found = evaluate([federation.master(1), f"sent={federation.package(1)}"], data=federation.data("a"),
                     base=federation.base, device="cpu")  # fmt: skip
    assert "lora_B 4 bits" in next(row for row in found.rows if row.role == "proxy").detail
    alone = evaluate([federation.master(1)], data=federation.data("a"), base=federation.base, device="cpu",
                     quantize=SPEC)  # fmt: skip
    sent, own = (next(row.scores for row in rows if row.role == "proxy") for rows in (found.rows, alone.rows))
    assert sent == own


def test_a_simulation_ends_in_the_same_master(federation, tmp_path):
    spec = FederationSpec(
        base=federation.base, seed=7, task=federation.task, lora=federation.lora, quantize=SPEC, train=federation.train
    )
    data = {client: federation.data(client) for client in federation.clients}
    played = simulate(
        spec, data, out=tmp_path / "run", n_rounds=2, keep_state=federation.keep_states, device="cpu"
    )  # fmt: skip
    assert played.sha256 == sha256_of(federation.master(2))


def test_other_widths_of_a_released_master_are_a_second_rounding(federation, tmp_path):
    quantize(federation.master(1), out=tmp_path / "proxy", spec=QuantSpec(bits="2", block=16, groups={"lora_B": "5"}))
    with pytest.raises(SecondReleaseError):
        pack(tmp_path / "proxy", out=tmp_path / "p", train=SCAFFOLD if federation.keep_states else TrainSpec(steps=1),
             ledger=federation.folder / "releases.jsonl")  # fmt: skip


def test_options_and_the_file_say_groups_and_unknown_ones_are_refused(played, runner, tmp_path):
    file = tmp_path / "federation.toml"
    file.write_text('[quantize]\nbits = "3"\n[quantize.groups]\nlora_B = "4"\n"q_proj.lora_A" = "2"\n')
    out = ["--out", str(tmp_path / "proxy")]
    call = ["quantize", str(played.master(0)), "-f", str(file), *out]
    assert runner.invoke(app, [*call, "--group", "q_proj.lora_A=5"]).exit_code == 0
    found = header_of(tmp_path / "proxy").spec.quantize
    assert (found.bits, found.groups) == ("3", {"lora_B": "4", "q_proj.lora_A": "5"})
    dry = json.loads(runner.invoke(app, [*call, "--dry-run", "--json"]).stdout)["data"]
    assert dry["quantize"]["groups"] == {"lora_B": "4", "q_proj.lora_A": "2"}
    full = read_settings(file).resolve(QuantSpec, bits="full")
    assert full == QuantSpec(bits="full")
    with pytest.raises(
        UsageError, match=r"--group lora_C: no tensor of the adapter is in it; there are .*lora_A, lora_B"
    ):
        quantize(played.master(0), out=tmp_path / "x", spec=QuantSpec(groups={"lora_C": "4"}))
    with pytest.raises(UsageError, match=r"--group layers\.7"):
        evaluate(
            [played.master(0)], data=played.data("a"), base=played.base, quantize=QuantSpec(groups={"layers.7": "4"})
        )
    for pair in ("lora_B", "lora_B=", "=4"):
        assert runner.invoke(app, [*call, "--force", "--group", pair]).exit_code == 2
    assert runner.invoke(app, [*call, "--force", "--group", "lora_B=9"]).exit_code == 3


def test_updates_have_one_width(tmp_path):
    file = tmp_path / "federation.toml"
    file.write_text('[update]\nbits = "4"\n[update.groups]\nlora_B = "2"\n')
    spec = read_settings(file).resolve(QuantSpec, "update")
    with pytest.raises(ValueError, match="groups: all tensors of an update have one width"):
        PackageSpec(client=None, train=TrainSpec(steps=1), update=spec)
    file.write_text('[quantize.groups]\n"q_proj.lora_B" = "9"\n')
    with pytest.raises(SettingsError, match="groups"):
        read_settings(file).resolve(QuantSpec)
