"""Audits under methods that train one factor of a module: what attackers have from the start, and what they add up."""

import pytest
from support.audits import rows_of, run, shards_of
from support.parties import Federation

from fedlpp_cli.records.audits import ATTACKS, AuditSpec
from fedlpp_cli.records.specs import FULL_PRECISION, LoraSpec, QuantSpec, TrainSpec

RECIPE = TrainSpec(steps=8, batch_size=8, learning_rate=3e-2)
ADAPTER = LoraSpec(rank=2, target_modules=("q_proj", "v_proj"))
METHODS = ("ffa-lora", "rolora", "fedsvd")


def play(folder, base, method, n_rounds=2, **fields):
    given = {"quantize": QuantSpec(bits="3", block=16), **fields}
    made = Federation(folder, base, method=method, lora=ADAPTER, train=RECIPE, **given)
    made.play(n_rounds)
    return made


@pytest.fixture(scope="module", params=METHODS)
def federation(request, tmp_path_factory, llama):
    """Two rounds at 3 bits."""
    return play(tmp_path_factory.mktemp(request.param), llama, request.param)


@pytest.fixture(scope="module")
def report(federation, held_out):
    spec = AuditSpec(n_epochs=1, n_queries=6)
    return run(federation, held_out, spec=spec, shards=shards_of(federation))


def test_every_attack_is_played_or_says_why_not(federation, report):
    assert {row.attack for row in report.rows} == set(ATTACKS)
    why = {f"{row.attack}, {row.variant}": row.skipped for row in report.rows if row.skipped is not None}
    expected = {"rerounding, more draws", "pool, one client"}
    if federation.method == "fedsvd":
        expected.add("average, all rounds, factors")
        assert "makes both factors anew" in why["average, all rounds, factors"]
    assert set(why) == expected
    for row in report.rows:
        if row.skipped is None:
            assert row.scores["loss"] > 0
            assert row.error_product > 0
            assert row.rho is not None
    assert report.verdict


def test_means_are_of_products_where_factors_are_made_anew(federation, report):
    kinds = {row.variant.rpartition(", ")[2] for row in rows_of(report, "average") if row.skipped is None}
    assert kinds == ({"products"} if federation.method == "fedsvd" else {"factors", "products"})
    n_rounds = {row.variant for row in rows_of(report, "intersect")}
    assert (n_rounds == {"the newest round"}) == (federation.method == "fedsvd")


def test_what_clients_draw_is_no_secret_that_an_attack_reveals(federation, report):
    proxy = rows_of(report, "proxy")[0]
    if federation.method == "ffa-lora":
        assert proxy.error_a == 0.0
        assert proxy.revealed < 0.5  # of B; A is everybody's
    else:
        assert proxy.error_a > 0.01


def test_who_has_all_updates_has_the_owners_model_as_far_as_it_knows_a(federation, report):
    """With FFA-LoRA A is known, and B began at zero: nothing is left, whatever bits proxies have."""
    everybody, outsider, half = rows_of(report, "replay")
    assert everybody.error_product == outsider.error_product < half.error_product
    match federation.method:
        case "ffa-lora":
            assert everybody.error_product < 1e-6
            assert everybody.rho == pytest.approx(1, abs=1e-4)
            assert (everybody.error_a, everybody.revealed > 0.5) == (0.0, True)
        case "rolora":
            assert everybody.error_b < 1e-6
            assert 0.01 < everybody.error_a < 1
        case "fedsvd":
            assert (everybody.error_a, everybody.error_b) == (None, None)
            assert everybody.error_product < rows_of(report, "proxy")[0].error_product


@pytest.mark.parametrize("method", METHODS)
def test_without_rounding_all_updates_are_the_owners_model(method, tmp_path, llama, held_out):
    made = play(tmp_path, llama, method, n_rounds=3, quantize=FULL_PRECISION)
    report = run(made, held_out, spec=AuditSpec(attacks=("replay", "average")))
    everybody, _, half = rows_of(report, "replay")
    assert everybody.error_product < 1e-5
    assert everybody.rho == pytest.approx(1, abs=1e-3)
    assert half.error_product > 0.05
    if method == "ffa-lora":
        means = [row for row in rows_of(report, "average") if row.variant == "all, factors"]
        assert means[0].error_a == 0.0  # a mean of what never moves


def test_more_draws_tell_nothing_of_what_is_drawn_from_the_seed(tmp_path, llama, held_out):
    stochastic = QuantSpec(bits="2", block=16, rounding="stochastic", rounding_seed="s")
    made = play(tmp_path, llama, "ffa-lora", n_rounds=1, quantize=stochastic)
    report = run(made, held_out, spec=AuditSpec(attacks=("proxy", "rerounding")))
    four, sixteen = rows_of(report, "rerounding")
    assert (four.error_a, sixteen.error_a) == (0.0, 0.0)
    assert rows_of(report, "proxy")[0].error_b > four.error_b > sixteen.error_b
