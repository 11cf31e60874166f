"""The data holder's ledger: nothing is forgotten, nothing passes the budget."""

import subprocess
import sys

import pytest
from msgspec.structs import replace

from fedlpp_cli.errors import ArtifactError, BudgetError, LineageError, UsageError
from fedlpp_cli.privacy.budget_ledger import Budget, Charge, foresee_charge, read_ledger, record_charge

BUDGET = Budget(delta=1e-5, max_epsilon=8.0)
# One step costs 4.377, two 6.6, three 8.4.
ONE = Charge(
    federation="a" * 64, round=0, package="b" * 64, client="north", data="c" * 64, noise_multiplier=1.0,
    sampling_rate=1.0, n_steps=1, run="1" * 64, update="d" * 64,
)  # fmt: skip
LOOP = """
import sys
from pathlib import Path
from msgspec.structs import replace
from fedlpp_cli.privacy.budget_ledger import record_charge
sys.path.insert(0, sys.argv[2])
from test_budget_ledger import BUDGET, ONE
for number in range(10**6):
    run = format(number, "064x")
    record_charge(Path(sys.argv[1]), replace(BUDGET, max_epsilon=None), replace(ONE, run=run, n_steps=0))
    print(run, flush=True)
"""


def another(run, **fields):
    return replace(ONE, run=run * 64, **fields)


def test_charges_add_up_and_the_budget_is_kept(tmp_path):
    path = tmp_path / "ledger"
    assert record_charge(path, BUDGET, ONE) == pytest.approx(4.377, abs=1e-3)
    second = record_charge(path, BUDGET, another("2"))
    before = path.read_bytes()
    with pytest.raises(BudgetError, match="the budget is 8"):
        record_charge(path, BUDGET, another("3"))
    assert path.read_bytes() == before
    assert read_ledger(path).epsilon() == second < 8
    assert len(before.splitlines()) == 3


def test_the_same_run_is_charged_once_and_told_the_same(tmp_path):
    path = tmp_path / "ledger"
    first = record_charge(path, BUDGET, ONE)
    record_charge(path, BUDGET, another("2"))
    assert record_charge(path, BUDGET, ONE) == first
    assert len(read_ledger(path).charges) == 2


def test_what_is_foreseen_is_what_is_charged_and_nothing_is_written_for_it(tmp_path):
    path = tmp_path / "ledger"
    expected = foresee_charge(path, BUDGET, ONE)
    assert not path.exists()
    assert record_charge(path, BUDGET, ONE, told=expected) == expected
    assert foresee_charge(path, BUDGET, ONE) == expected
    record_charge(path, BUDGET, another("2"))
    before = path.read_bytes()
    with pytest.raises(BudgetError):
        foresee_charge(path, BUDGET, another("3"))
    assert foresee_charge(path, BUDGET, ONE) == expected
    assert path.read_bytes() == before


def test_an_update_that_says_less_than_is_true_is_not_charged(tmp_path):
    path = tmp_path / "ledger"
    told = foresee_charge(path, BUDGET, another("2"))
    record_charge(path, BUDGET, ONE)
    before = path.read_bytes()
    with pytest.raises(LineageError, match="charged meanwhile"):
        record_charge(path, BUDGET, another("2"), told=told)
    assert path.read_bytes() == before


def test_other_data_has_to_be_said_and_counts_on_top(tmp_path):
    path = tmp_path / "ledger"
    first = record_charge(path, BUDGET, ONE)
    with pytest.raises(LineageError, match="a ledger of other data"):
        record_charge(path, BUDGET, another("2", data="e" * 64))
    assert record_charge(path, BUDGET, another("2", data="e" * 64), data_changed=True) > first


def test_a_budget_only_gets_smaller_and_delta_stays(tmp_path):
    path = tmp_path / "ledger"
    record_charge(path, BUDGET, ONE)
    for wrong in (replace(BUDGET, max_epsilon=9.0), replace(BUDGET, delta=1e-6)):
        with pytest.raises(UsageError):
            record_charge(path, wrong, another("2"))
    record_charge(path, replace(BUDGET, max_epsilon=7.0), another("2"))
    assert read_ledger(path).budget.max_epsilon == 7.0


def test_a_last_line_cut_short_does_not_count_and_any_other_damage_stops(tmp_path):
    path = tmp_path / "ledger"
    record_charge(path, BUDGET, ONE)
    whole = path.read_bytes()
    record_charge(path, BUDGET, another("2"))
    both = path.read_bytes()
    for cut in range(len(whole), len(both) - 1):
        path.write_bytes(both[:cut])
        assert len(read_ledger(path).charges) == 1
    record_charge(path, BUDGET, another("2"))
    assert path.read_bytes() == both
    path.write_bytes(both[:-1])
    assert len(read_ledger(path).charges) == 2
    for damaged in (whole.replace(b'"about"', b'"abut"', 1), whole[10:], both[: len(whole) - 5] + both[len(whole) :]):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            record_charge(path, BUDGET, another("3"))
        assert path.read_bytes() == damaged


def test_what_was_charged_is_there_after_a_kill(tmp_path):
    path = tmp_path / "ledger"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(path), str(__file__).rpartition("/")[0]], stdout=subprocess.PIPE, text=True
        )
        told = [process.stdout.readline().strip() for _ in range(7)]
        process.kill()
        process.communicate()
        assert set(told) <= {one.run for one in read_ledger(path).charges}
