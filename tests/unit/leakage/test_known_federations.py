"""Attacks on federations whose optimum is known: means, intervals, coalitions."""

import pytest
from support.toy_federation import LARGE, SMALL, bilinear, drifting, quadratic

from fedlpp_cli.leakage.intervals import intersect
from fedlpp_cli.records.specs import QuantSpec

BITS = ["ternary", "2", "3", "4"]
every_width = pytest.mark.parametrize("bits", BITS)


@every_width
def test_past_convergence_the_mean_of_proxies_is_far_ahead_of_the_owner_with_rule_1(bits):
    found = quadratic(bits, update_rule=1, n_rounds=60, progress=LARGE)
    assert found.average < found.central / 10
    assert found.central < found.proxy


@every_width
def test_with_rule_2_it_is_not(bits):
    found = quadratic(bits, update_rule=2, n_rounds=60, progress=LARGE)
    assert found.average > found.central
    assert found.average == pytest.approx(found.proxy, rel=0.02)


@every_width
def test_on_the_way_there_the_owner_is_ahead_of_the_proxy_and_of_the_mean(bits):
    found = quadratic(bits, update_rule=1, n_rounds=60, progress=SMALL)
    assert found.central < 0.9 * found.proxy
    assert found.central < 0.9 * found.average


@pytest.mark.parametrize("bits", ["3", "4"])
def test_and_as_good_as_without_rounding(bits):
    exact = quadratic("full", update_rule=1, n_rounds=60, progress=SMALL).central
    assert quadratic(bits, update_rule=1, n_rounds=60, progress=SMALL).central < 1.15 * exact


@every_width
def test_rule_1_gathers_steps_below_a_cell_where_rule_2_stalls(bits):
    first, second = (quadratic(bits, update_rule=rule, n_rounds=60, progress=SMALL).central for rule in (1, 2))
    assert first < 0.8 * second


@pytest.mark.parametrize("bits", ["2", "4"])
def test_of_factors_the_mean_of_products_leaks_likewise(bits):
    first, second = (bilinear(bits, update_rule=rule, rate=0.01) for rule in (1, 2))
    assert first.average < first.central / 2
    assert second.average > 0.9 * second.central


def played(bits, n_rounds=32):
    return drifting(QuantSpec(bits=bits), n_rounds=n_rounds, size=2**13)


@pytest.mark.parametrize("bits", ["2", "4"])
def test_one_client_gains_little_and_a_coalition_much(bits):
    history = played(bits)
    last = history.error(history.proxies[-1]["w"])
    outsider, one, half, all_clients = (history.averaged(m) for m in (0, 1, 5, 10))
    assert 0.75 * last < outsider < last
    assert 0.95 * outsider < one < outsider
    assert all_clients < half < 0.9 * one
    assert all_clients < {"2": 0.7, "4": 0.3}[bits] * last


@pytest.mark.parametrize("bits", ["2", "3", "4"])
def test_intervals_leave_less_than_means_do(bits):
    """Nearest levels draw sharp borders: where they moved over a weight, it is known."""
    history = played(bits)
    newest = history.error(intersect(history.bounds()[:1], 0.0))
    assert history.intersected(0, 1.0) < 0.85 * newest
    assert history.intersected(0, 1.0) < 0.95 * history.averaged(0)
    assert history.intersected(10) < 0.7 * history.averaged(10)
