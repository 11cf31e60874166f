"""What an audit is given, what it says where something is missing, and how it reads on a terminal."""

import json
import shutil

import pytest
from msgspec.structs import replace
from support.audits import RECIPE, rows_of, run, shards_of
from support.parties import Federation
from typer.testing import CliRunner

from fedlpp_cli import evaluate, quantize
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import InputError, LeakageError, LineageError, UsageError
from fedlpp_cli.records.audits import AuditSpec
from fedlpp_cli.records.specs import FULL_PRECISION, AggregateSpec, BaseQuantSpec, EvaluateSpec, LoraSpec, QuantSpec


def test_an_earlier_round_is_audited_as_if_it_were_the_newest(taught, held_out, tmp_path):
    report = run(taught, held_out, round_number=1, spec=AuditSpec(attacks=("proxy", "average")))
    shutil.copytree(taught.round(0), tmp_path / "run" / "round-0000")
    shutil.copytree(
        taught.round(1), tmp_path / "run" / "round-0001", ignore=shutil.ignore_patterns("package", "proxy*")
    )
    again = run(taught, held_out, tmp_path / "run", spec=AuditSpec(attacks=("proxy", "average")))
    # Made on the fly or sent, the proxy is the same; what a package weighs is not known before it is made.
    assert replace(again, bytes_down=0) == replace(report, bytes_down=0)


def test_artifacts_one_by_one_are_as_good_as_a_run_folder(taught, held_out):
    artifacts = [taught.master(2), taught.package(1), taught.proxy(0), *taught.updates(0), *taught.updates(1)]
    spec = AuditSpec(attacks=("proxy", "average", "intersect", "replay"))
    one_by_one = run(taught, held_out, *artifacts, spec=spec)
    together = run(taught, held_out, spec=spec)
    assert one_by_one.rows == together.rows


def test_what_is_missing_or_foreign_is_named(taught, held_out, tmp_path):
    other = Federation(tmp_path / "other", taught.base, lora=LoraSpec(rank=2))
    other.init()
    other.send(0)
    for artifacts, error, words in (
        ([taught.master(2), taught.package(1)], InputError, "round 0: neither package, proxy nor master"),
        ([taught.master(2)], InputError, "rounds 0, 1: neither package"),
        ([taught.folder, other.package(0)], LineageError, "of federation"),
        ([taught.package(0)], UsageError, "needs the owner's master"),
        ([taught.folder, taught.data("a")], Exception, "jsonl"),
        ([taught.folder, taught.master(0)], LineageError, "a second master of round 0"),
    ):
        with pytest.raises(error, match=words):
            run(taught, held_out, *artifacts)
    with pytest.raises(UsageError, match="needs the owner's master of round 7") as caught:
        run(taught, held_out, round_number=7)
    assert caught.value.hint == "the newest that is here is of round 2"
    with pytest.raises(UsageError) as caught:
        run(taught, held_out, taught.update(0, "a"))
    assert "--update" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run folder, there is no round-0000 in it"):
        run(taught, held_out, tmp_path / "empty")


def test_a_proxy_of_another_master_is_refused(taught, held_out, tmp_path):
    quantize(taught.master(1), out=tmp_path / "other", spec=QuantSpec(bits="4"))
    run(taught, held_out, taught.master(1), taught.proxy(0), tmp_path / "other")  # of this master, however rounded
    shutil.copytree(taught.folder, tmp_path / "run")
    shutil.copy(taught.master(1), tmp_path / "run" / "round-0002" / "master.safetensors")
    with pytest.raises(LineageError, match="a second master of round 1"):
        run(taught, held_out, tmp_path / "run")


def test_held_out_rows_that_a_client_has_are_told_of(taught):
    report = run(taught, taught.data("a"), shards=shards_of(taught))
    assert report.warnings == ("12 of the 12 held-out rows are a's too: models trained on them score too high",)


def test_without_shards_updates_or_names_the_reasons_are_said(taught, held_out, tmp_path):
    shutil.copytree(taught.folder, tmp_path / "run", ignore=shutil.ignore_patterns("updates"))
    spec = AuditSpec(attacks=("fine-tune", "pool", "replay", "distill"))
    report = run(taught, held_out, tmp_path / "run", spec=spec)
    reasons = {row.skipped for row in report.rows}
    assert reasons == {
        "no --shard: the attacker has no rows to train on",
        "who took part is not known: no updates, and no --seen",
        "fewer than two shards: --shard for each client",
        "0 of 2 updates of round 0 are there",
        "fewer than two clients are known",
        "no --shard: the attacker has no rows to ask about",
    }
    assert report.verdict == "NOT JUDGED: no attack that counts was tried."
    known = run(taught, held_out, tmp_path / "run", spec=AuditSpec(attacks=("pool",)), seen={"a": [0]})
    assert known.rows[0].variant.startswith("a alone, ")
    assert known.rows[0].knows == "the packages of 2 rounds that a was in"


def test_one_round_has_no_mean_and_no_intersection(taught, held_out):
    spec = AuditSpec(attacks=("average", "intersect", "replay"))
    report = run(taught, held_out, round_number=0, spec=spec)
    assert "no mean" in rows_of(report, "average")[0].skipped
    assert rows_of(report, "intersect")[0].variant == "the newest round"
    assert "no round has been aggregated" in rows_of(report, "replay")[0].skipped


@pytest.mark.parametrize("base_format", ["nf4", "nf3"])
def test_of_a_private_base_attackers_have_the_copy(tmp_path, llama, held_out, base_format):
    base = BaseQuantSpec(format=base_format)
    federation = Federation(tmp_path / "f", llama, private_base=True, base_quantize=base, train=RECIPE)
    federation.play(1)
    report = run(federation, held_out, spec=AuditSpec(attacks=("proxy", "fine-tune"), n_epochs=1),
                 shards=shards_of(federation))  # fmt: skip
    rows = evaluate([federation.master(1)], data=held_out, base=llama, base_artifact=federation.folder / "base",
                    device="cpu").rows  # fmt: skip
    assert [report.base, report.proxy, report.central] == [row.scores for row in rows]
    assert report.rows[-1].skipped is None


def test_a_stranger_reads_whether_to_ship(taught_in_full, held_out, tmp_path):
    call = [
        "audit",
        taught_in_full.folder,
        "--base",
        taught_in_full.base,
        "--data",
        held_out,
        "--attacks",
        "proxy,average",
        "--device",
        "cpu",
    ]
    call = [str(part) for part in call]
    out = ["--out", str(tmp_path / "audit.json")]
    shown = CliRunner().invoke(app, [*call, *out, "--max-rho", "0.5"])
    assert shown.exit_code == LeakageError.exit_code == 12
    lines = shown.stdout.splitlines()
    assert lines[-1] == out[1]
    assert lines[-2].startswith("NOT PROTECTED: who ")
    assert lines[-2].endswith("Do not send the next package: --max-rho allows 50 %.")
    assert shown.stderr.startswith("error: ")
    failed = json.loads(CliRunner().invoke(app, [*call, "--max-rho", "0.5", "--json"]).stdout)
    assert set(failed) == {"envelope", "command", "status", "error", "data"}
    assert (failed["status"], failed["error"]["code"]) == ("error", "leakage")
    assert failed["data"]["report"]["rows"][0]["rho"] == 1.0
    passed = CliRunner().invoke(app, [*call, "--max-rho", "2"])
    assert passed.exit_code == 0
    assert "The next package may go" in passed.stdout


def test_options_that_mean_nothing_are_refused(taught, held_out):
    call = ["audit", str(taught.folder), "--base", str(taught.base), "--data", str(held_out)]
    for options, words in (
        (["--attacks", "magic"], "--attacks 'magic': no such attack"),
        (["--count", "proxy,magic"], "--count 'magic': no such attack"),
        (["--attacks", "replay", "--max-rho", "1"], "--max-rho: none of the attacks that are chosen counts"),
        (["--seen", "bank"], "CLIENT=ROUNDS is needed"),
        (["--shard", str(held_out), "--shard", str(held_out)], "a second one of the name 'test'"),
    ):
        refused = CliRunner().invoke(app, [*call, *options])
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.stderr
    assert CliRunner().invoke(app, ["audit"]).exit_code == 2


def test_fewer_rows_are_asked_for_by_limit(taught, held_out):
    assert run(taught, held_out, evaluate=EvaluateSpec(limit=5)).n_examples == 5


def test_what_the_owner_withholds_is_part_of_what_is_protected(tmp_path, llama, held_out):
    federation = Federation(
        tmp_path / "f", llama, lora=LoraSpec(rank=2), train=RECIPE, quantize=FULL_PRECISION,
        aggregate=AggregateSpec(combine="residual"),
    )  # fmt: skip
    federation.play(2)
    report = run(federation, held_out, spec=AuditSpec(attacks=("proxy", "replay")))
    rows = evaluate([federation.master(2)], data=held_out, base=llama, device="cpu").rows
    assert [report.base, report.central] == [rows[0].scores, rows[-1].scores]
    proxy = report.rows[0]
    assert (proxy.error_a, proxy.error_b, proxy.revealed) == (0.0, 0.0, 1.0)  # all that clients get, they have
    assert proxy.error_product > 1e-3
    assert "residual is not replayed" in rows_of(report, "replay")[0].skipped


def test_the_state_of_a_server_optimizer_is_followed_by_who_has_all_updates(tmp_path, llama, held_out):
    spec = AggregateSpec(server_optimizer="adam", server_learning_rate=0.01)
    federation = Federation(tmp_path / "f", llama, train=RECIPE, quantize=FULL_PRECISION, aggregate=spec)
    federation.play(2)
    everybody = run(federation, held_out, spec=AuditSpec(attacks=("replay",))).rows[0]
    assert everybody.error_product < 1e-5
