"""What training with noise costs, against tables and against other accountants."""

import subprocess
import sys

import pytest

from fedlpp_cli.errors import UsageError
from fedlpp_cli.privacy.accountant import Spending, epsilon_of, noise_multiplier_for, renyi_epsilon_of

DELTA = 1e-5
# noise multiplier, sampling rate, steps; epsilon by PLD and by Renyi-DP, of dp-accounting 0.6.0.
TABLE = [
    (1.0, 0.01, 1000, 1.8282, 2.1014),
    (0.8, 0.05, 200, 7.7022, 8.7432),
    (0.6, 0.02, 500, 10.2803, 11.8456),
    (1.0, 0.1, 30, 4.1782, 4.8480),
    (1.0, 1.0, 1, 4.3772, 4.7285),
    (1.0, 1.0, 10, 17.8566, 19.0536),
    (2.0, 1.0, 30, 14.8299, 15.8504),
    (1.0, 0.01, 10000, 6.188, 6.713),
    (1.0, 0.1, 100, 7.047, 7.904),
    (1.0, 0.5, 20, 15.123, 16.58),
    (0.6, 0.2, 5, 9.881, 11.41),
    (4.0, 1.0, 10, 3.341, 3.617),
]


@pytest.mark.parametrize(("sigma", "rate", "steps", "pld", "renyi"), TABLE)
def test_epsilon_is_that_of_the_table(sigma, rate, steps, pld, renyi):
    spent = [Spending(sigma, rate, steps)]
    assert epsilon_of(spent, DELTA) == pytest.approx(pld, abs=6e-4)
    assert renyi_epsilon_of(spent, DELTA) == pytest.approx(renyi, rel=5e-4)
    assert epsilon_of(spent, DELTA) <= epsilon_of(spent, DELTA, coarse=True) <= renyi_epsilon_of(spent, DELTA)


def test_one_step_without_sampling_is_the_gaussian_mechanism_of_which_the_answer_is_known():
    assert epsilon_of([Spending(1.0, 1.0, 1)], DELTA) == pytest.approx(4.377178, abs=1e-4)


@pytest.mark.parametrize(("sigma", "rate", "steps"), [row[:3] for row in TABLE])
def test_another_accountant_of_other_people_finds_the_same(sigma, rate, steps):
    prv = pytest.importorskip("opacus.accountants").PRVAccountant()
    prv.history = [(sigma, rate, steps)]
    assert abs(epsilon_of([Spending(sigma, rate, steps)], DELTA) - prv.get_epsilon(DELTA)) < 0.02


def test_a_history_costs_the_same_in_any_order_and_in_any_pieces():
    one, other = Spending(1.0, 0.1, 30), Spending(0.8, 0.05, 20)
    whole = epsilon_of([one, other], DELTA)
    parts = [Spending(0.8, 0.05, 15), Spending(1.0, 0.1, 12), Spending(0.8, 0.05, 5), Spending(1.0, 0.1, 18)]
    assert epsilon_of(parts, DELTA) == whole
    assert whole > max(epsilon_of([one], DELTA), epsilon_of([other], DELTA))
    assert epsilon_of([], DELTA) == renyi_epsilon_of([], DELTA) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps", "sigma"), [(3.0, 0.01, 1000, 0.8136), (8.0, 1.0, 20, 2.6844), (8.0, 0.1, 200, 1.1298)]
)
def test_the_noise_is_the_least_that_keeps_the_promise(epsilon, rate, steps, sigma):
    found = noise_multiplier_for(epsilon, DELTA, sampling_rate=rate, n_steps=steps)
    assert found == sigma
    assert epsilon_of([Spending(found, rate, steps)], DELTA) <= epsilon
    assert epsilon_of([Spending(found - 1e-4, rate, steps)], DELTA) > epsilon


def test_noise_that_protects_nothing_has_a_number_too():
    assert epsilon_of([Spending(1e-5, 0.5, 30)], DELTA) > 1e9


def test_nothing_is_said_on_stderr():
    code = "from fedlpp_cli.privacy.accountant import *; print(renyi_epsilon_of([Spending(0.6, 0.2, 5)], 1e-5))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr == ""


def test_without_the_library_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UsageError, match="needs dp-accounting") as caught:
        epsilon_of([Spending(1.0, 1.0, 1)], DELTA)
    assert caught.value.hint == "pip install 'fedlpp[dp]'"
