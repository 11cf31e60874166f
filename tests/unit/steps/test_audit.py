"""The owner plays the attacker: every attack for real, on federations small enough to know what must come out."""

import stat

import pytest
from msgspec.structs import replace
from support.audits import CHEAP, RECIPE, rows_of, run, shards_of
from support.forge import sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, write_jsonl

from fedlpp_cli import evaluate
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.errors import LeakageError
from fedlpp_cli.records.audits import ATTACKS, AuditReport, AuditSpec
from fedlpp_cli.records.specs import QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.rounding import six_digits


@pytest.fixture(scope="module")
def everything(taught, held_out):
    return run(taught, held_out, spec=AuditSpec(n_epochs=2, n_queries=8), shards=shards_of(taught))


def test_every_attack_is_played_and_says_what_it_takes(everything):
    assert {row.attack for row in everything.rows} == set(ATTACKS)
    done = [row for row in everything.rows if row.skipped is None]
    assert {row.attack for row in done} == set(ATTACKS) - {"rerounding"}
    for row in done:
        assert row.scores["loss"] > 0
        assert row.rho_interval.low <= row.rho <= row.rho_interval.high
        assert row.kl >= 0
        assert 0 <= row.agreement <= 1
        assert row.error_product > 0
        assert row.knows
    assert [row.variant for row in rows_of(everything, "average")] == ["all, factors", "last half, factors",
        "EMA 0.9, factors", "all, products", "last half, products", "EMA 0.9, products"]  # fmt: skip
    assert "rounding is nearest" in rows_of(everything, "rerounding")[0].skipped
    tuned = [row.variant.partition(", epoch")[0] for row in rows_of(everything, "fine-tune")]
    assert (tuned[0], tuned[-1], len(tuned)) == ("newest proxy", "base alone", 3)
    assert rows_of(everything, "pool")[1].knows == "the newest package, and the 2 clients' 28 rows"
    assert rows_of(everything, "distill")[1].knows == (
        "no package, and the owner's model's probabilities for a's 8 rows"
    )


def test_what_needs_more_than_packages_and_own_rows_does_not_count_unless_told(everything, taught, held_out):
    counted = {row.attack for row in everything.rows if row.counts}
    assert counted == {"proxy", "average", "fine-tune", "intersect"}
    assert not rows_of(everything, "fine-tune")[-1].counts  # the base alone: nothing was handed out
    worst = everything.rows[everything.worst]
    assert worst.rho == max(row.rho for row in everything.rows if row.counts and row.rho is not None)
    told = run(taught, held_out, spec=AuditSpec(attacks=("proxy", "replay"), counted=("replay",)))
    assert {row.attack for row in told.rows if row.counts} == {"replay"}


def test_base_proxy_and_central_score_as_evaluate_says(everything, taught, held_out):
    rows = evaluate([taught.master(2)], data=held_out, base=taught.base, device="cpu").rows
    assert [everything.base, everything.proxy, everything.central] == [row.scores for row in rows]
    assert everything.gain == pytest.approx(rows[0].scores["loss"] - rows[2].scores["loss"], rel=1e-4)
    assert everything.gain_interval.low > 0
    proxy = rows_of(everything, "proxy")[0]
    assert proxy.rho == pytest.approx((rows[0].scores["loss"] - rows[1].scores["loss"]) / everything.gain, rel=1e-3)
    assert (everything.n_examples, everything.n_rounds, everything.n_compared) == (20, 3, 20)
    assert everything.bytes_down > 0


def test_a_proxy_in_full_precision_is_the_model(taught_in_full, held_out):
    spec = AuditSpec(attacks=("proxy", "intersect", "replay"))
    report = run(taught_in_full, held_out, spec=spec)
    proxy = rows_of(report, "proxy")[0]
    assert (proxy.rho, proxy.revealed, proxy.agreement) == (1.0, 1.0, 1.0)
    assert (proxy.error_a, proxy.error_b) == (0.0, 0.0)
    assert proxy.error_product < 1e-12
    assert proxy.kl == pytest.approx(0, abs=1e-9)
    assert report.verdict.startswith("NOT PROTECTED: who takes the newest proxy as it is")
    assert "nothing is left" in rows_of(report, "intersect")[0].skipped


def test_who_has_all_updates_has_the_model_and_sealing_leaves_half_the_clients_less(taught_in_full, taught, held_out):
    spec = AuditSpec(attacks=("replay",))
    everybody, outsider, half = run(taught_in_full, held_out, spec=spec).rows
    assert everybody.error_product < 1e-6
    assert everybody.rho == pytest.approx(1, abs=1e-4)
    assert replace(everybody, variant=outsider.variant, knows=outsider.knows) == outsider
    assert half.error_product > 0.1
    assert half.knows.endswith("the updates of a alone")
    rounded = run(taught, held_out, spec=spec).rows[0]
    assert rounded.error_b < 1e-6  # B started at zero, which every proxy says
    assert rounded.error_a > 0.01  # of A there is only what the first proxy says


def test_more_draws_of_one_master_tell_more(tmp_path, llama, held_out):
    stochastic = QuantSpec(bits="2", rounding="stochastic", rounding_seed="s")
    federation = Federation(tmp_path / "f", llama, quantize=stochastic, train=RECIPE)
    federation.play(1)
    report = run(federation, held_out, spec=AuditSpec(attacks=("proxy", "rerounding")))
    four, sixteen = rows_of(report, "rerounding")
    assert rows_of(report, "proxy")[0].error_a > four.error_a > sixteen.error_a
    assert sixteen.error_a < 0.7 * four.error_a


def test_above_the_limit_it_fails_with_all_that_was_found(taught_in_full, held_out, tmp_path):
    out = tmp_path / "audit.json"
    with pytest.raises(LeakageError, match=r"proxy, newest: recovery ratio 1, --max-rho allows 0\.5") as caught:
        run(taught_in_full, held_out, spec=replace(CHEAP, max_rho=0.5), out=out)
    found = read_report(out).header
    assert isinstance(found.spec, AuditReport)
    assert found.spec == caught.value.result.report
    assert found.parents["master"] == (sha256_of(taught_in_full.master(2)),)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "Do not send the next package: --max-rho allows 50 %." in found.spec.verdict
    passed = run(taught_in_full, held_out, spec=replace(CHEAP, max_rho=1.5))
    assert "The next package may go" in passed.verdict


def test_where_central_is_not_told_from_base_no_ratio_is_said(taught, held_out):
    report = run(taught, held_out, round_number=0, spec=replace(CHEAP, max_rho=0.0))
    assert report.verdict.startswith("NOTHING TO PROTECT: central is not told from base on these 20 rows")
    assert (report.worst, report.rows[0].rho, report.rows[0].rho_interval) == (None, None, None)
    assert (report.n_rounds, report.gain) == (1, 0.0)


def test_without_time_no_training_is_begun(taught, held_out):
    spec = AuditSpec(attacks=("proxy", "fine-tune", "pool", "distill"), budget=0.0)
    report = run(taught, held_out, spec=spec, shards=shards_of(taught))
    trained = [row for row in report.rows if row.attack != "proxy" and "every round" not in str(row.skipped)]
    assert len(trained) == 5
    assert all(row.skipped.startswith("--budget: it would take about") for row in trained)
    assert report.rows[0].skipped is None
    assert "1 of the attacks that count did not fit into --budget." in report.verdict


def test_a_limit_that_nothing_was_held_against_is_not_kept(taught, held_out, tmp_path):
    spec = AuditSpec(attacks=("fine-tune",), budget=0.0, max_rho=0.9)
    with pytest.raises(LeakageError, match="no attack that counts was tried") as caught:
        run(taught, held_out, spec=spec, shards=shards_of(taught), out=tmp_path / "audit.json")
    assert caught.value.result.report.verdict.startswith("NOT JUDGED")
    assert (tmp_path / "audit.json").exists()
    # Before the first round there is nothing that anybody could have.
    report = run(taught, held_out, round_number=0, spec=spec, shards=shards_of(taught))
    assert report.verdict.startswith("NOTHING TO PROTECT")


def test_classifiers_are_judged_by_accuracy(tmp_path, bert):
    federation = Federation(
        tmp_path / "f",
        bert,
        task=TaskSpec(kind="seq-cls", max_length=16, labels=LABELS),
        train=TrainSpec(steps=60, batch_size=16, learning_rate=1e-2),
    )
    for number, client in enumerate(federation.clients):
        write_jsonl(federation.data(client), label_rows(60, seed=number))
    test = write_jsonl(tmp_path / "test.jsonl", label_rows(40, seed=9))
    federation.play(1)
    spec = AuditSpec(attacks=("proxy", "replay", "distill"), n_epochs=2)
    report = run(federation, test, spec=spec, shards=shards_of(federation))
    assert report.headline == "accuracy"
    assert report.gain == pytest.approx(report.central["accuracy"] - report.base["accuracy"], abs=1e-6)
    assert report.gain > 0.2
    replayed = rows_of(report, "replay")[0]
    assert replayed.rho == pytest.approx(1, abs=0.1)
    assert all(row.skipped is None for row in rows_of(report, "distill"))


def test_an_audit_without_a_clock_is_the_same_again(taught, held_out, tmp_path):
    spec = AuditSpec(attacks=("proxy", "average", "fine-tune", "distill"), n_epochs=1)
    for name in ("one", "two"):
        run(taught, held_out, spec=spec, shards=shards_of(taught), out=tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_predictions_are_compared_on_as_many_rows_as_fit(taught, held_out, monkeypatch):
    monkeypatch.setattr("fedlpp_cli.leakage.agreement.Answers.__init__.__kwdefaults__", {"max_numbers": 3000})
    report = run(taught, held_out)
    assert 0 < report.n_compared < 20
    assert report.rows[0].kl > 0


def test_scores_have_six_digits(everything):
    for row in everything.rows:
        assert all(value == six_digits(value) for value in row.scores.values())
