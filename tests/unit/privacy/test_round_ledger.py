"""The owner's ledger: every master with noise, once, whatever happens."""

import subprocess
import sys

import pytest
from msgspec.structs import replace

from fedlpp_cli.errors import ArtifactError, InputError, OutputError
from fedlpp_cli.privacy.accountant import epsilon_of
from fedlpp_cli.privacy.round_ledger import RoundCharge, read_charges, record_charge

ONE = RoundCharge(
    federation="a" * 64, round=1, master="1" * 64, noise_multiplier=1.0, sampling_rate=1.0, clip_norm=0.5,
    expected_clients=20,
)  # fmt: skip
TWO = replace(ONE, round=2, master="2" * 64)
LOOP = """
import sys
from pathlib import Path
from msgspec.structs import replace
from fedlpp_cli.privacy.round_ledger import record_charge
sys.path.insert(0, sys.argv[2])
from test_round_ledger import ONE
for number in range(10**6):
    master = format(number, "064x")
    record_charge(Path(sys.argv[1]), replace(ONE, master=master))
    print(master, flush=True)
"""


def test_a_master_is_charged_once_and_all_add_up(tmp_path):
    path = tmp_path / "folder" / "ledger"
    assert read_charges(path) == ()
    assert record_charge(path, ONE) == (ONE,)
    before = path.read_bytes()
    assert record_charge(path, ONE) == (ONE,)
    assert path.read_bytes() == before
    assert record_charge(path, TWO) == (ONE, TWO) == read_charges(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert epsilon_of([one.spending for one in (ONE, TWO)], 1e-5) > epsilon_of([ONE.spending], 1e-5)


def test_other_federations_count_too(tmp_path):
    record_charge(tmp_path / "ledger", ONE)
    assert len(record_charge(tmp_path / "ledger", replace(TWO, federation="b" * 64))) == 2


def test_a_last_line_cut_short_does_not_count_and_any_other_damage_stops(tmp_path):
    path = tmp_path / "ledger"
    record_charge(path, ONE)
    whole = path.read_bytes()
    record_charge(path, TWO)
    both = path.read_bytes()
    for cut in range(len(whole), len(both) - 1):
        path.write_bytes(both[:cut])
        assert read_charges(path) == (ONE,)
    record_charge(path, TWO)
    assert path.read_bytes() == both
    path.write_bytes(both[:-1])
    assert record_charge(path, replace(TWO, master="3" * 64))[:2] == (ONE, TWO)
    for damaged in (whole.replace(b"round", b"release", 1), whole[10:], both[: len(whole) - 5] + both[len(whole) :]):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="line 1"):
            record_charge(path, TWO)
        assert path.read_bytes() == damaged


def test_what_is_no_file_or_cannot_be_written_is_told_with_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    for path, error in ((tmp_path, OutputError), ("/dev/null", InputError), (tmp_path / "file" / "x", OutputError)):
        with pytest.raises(error) as caught:
            record_charge(tmp_path / path, ONE)
        assert caught.value.hint == "--privacy-ledger FILE"


def test_what_was_charged_is_there_after_a_kill(tmp_path):
    path = tmp_path / "ledger"
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(path), str(__file__).rpartition("/")[0]], stdout=subprocess.PIPE, text=True
    )
    told = [process.stdout.readline().strip() for _ in range(7)]
    process.kill()
    process.communicate()
    assert set(told) <= {one.master for one in read_charges(path)}
