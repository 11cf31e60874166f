"""Which rows are measured on, and which are trained on."""

import json

import pytest

from fedlpp_cli.engines.client_data import Cut
from fedlpp_cli.errors import DataError, UsageError
from fedlpp_cli.planning.calibration import share_out
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.task import Example


def data(n):
    rows = tuple(Row(f"line {k}", {"text": f"é{k}", "number": k}) for k in range(n))
    return Data(rows, tuple(Example((k,), (k,), False) for k in range(n)), "0" * 64)


def test_every_fourth_row_is_measured_on_and_the_others_are_cut(tmp_path):
    rows = share_out(data(18), {"a": "ignored.jsonl"}, 3, tmp_path, split="test")
    assert [example.input_ids[0] for example in rows.held_out] == [3, 7, 11, 15]
    assert (rows.clients, rows.split) == (Cut(data=tmp_path / "shards.jsonl", n_clients=3), None)
    lines = [json.loads(line) for line in (tmp_path / "shards.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17]
    assert lines[0] == {"text": "é0", "number": 0}
    assert (tmp_path / "shards.jsonl").stat().st_mode & 0o77 == 0


def test_clients_with_data_of_their_own_leave_all_rows_to_measure_on(tmp_path):
    rows = share_out(data(3), {"a": "a.jsonl"}, None, tmp_path, split="test")
    assert (len(rows.held_out), rows.clients, rows.split) == (3, {"a": "a.jsonl"}, "test")
    assert list(tmp_path.iterdir()) == []


def test_too_few_rows_and_no_clients_are_refused(tmp_path):
    assert share_out(data(8), None, 1, tmp_path, split=None).held_out
    with pytest.raises(DataError, match="7 rows: for 1 shards, 8 are needed"):
        share_out(data(7), None, 1, tmp_path, split=None)
    with pytest.raises(UsageError, match="--shards is missing"):
        share_out(data(8), {}, None, tmp_path, split=None)
