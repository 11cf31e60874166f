"""What `fedlpp evaluate` shows, and how clients' data is named."""

import json
import re

import pytest
from support.parties import Federation
from support.tiny import LABELS, label_rows, write_jsonl

from fedlpp_cli.cli.app import app
from fedlpp_cli.cli.evaluate_tables import with_interval
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import TaskSpec


@pytest.fixture
def fedlpp(runner, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")

    def run(*arguments):
        return runner.invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def call(played, llama, tmp_path):
    """Arguments that score a master with a federation file that knows client a."""
    file = tmp_path / "federation.toml"
    file.write_text(f'base = "{llama}"\n[train]\nsteps = 2\nbatch_size = 4\n[clients]\na = "{played.data("a")}"\n')
    return ["evaluate", played.master(1), "-f", file, "--data", played.data("b"), "--device", "cpu"]


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "expected"),
    [
        ("accuracy", 0.79412, 0.771, 0.815, "0.794 ± 0.023"),
        ("loss", 3.45123, 3.4426, 3.4571, "3.4512 ± 0.0086"),
        ("perplexity", 612.4, 585.0, 650.0, "612 ± 38"),
        ("perplexity", 61234.0, 50000.0, 70000.0, "61234 ± 11234"),
        ("accuracy", 1.0, 1.0, 1.0, "1.0000"),
        ("loss", 0.0996, 0.09, 0.1096, "0.100 ± 0.010"),
    ],
)
def test_a_score_is_shown_as_exactly_as_it_is_known(name, value, low, high, expected):
    assert with_interval(name, value, Interval(low=low, high=high)) == expected


def test_scores_and_gaps_fit_a_narrow_terminal(fedlpp, call):
    shown = fedlpp(*call, "--generate", "--max-new-tokens", 4, "--alone", "a", "--fine-tuned", "a").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 110
    central = next(line for line in lines if line.split()[:2] == ["central", "round"])
    assert len(re.findall(r"\d ± \d", central)) == 2
    assert sum("BLEU" in line and "exact match" in line for line in lines) == 1
    for name in ("gap recv", "gap ft", "gap alone"):
        assert sum(line.strip().startswith(name) for line in lines) == 1
    assert "a alone        2 steps on 12 rows: 1 round of 2" in shown
    assert "16 rows" in shown


def test_a_lead_that_is_no_lead_is_no_ratio(fedlpp, call, played):
    shown = fedlpp(*[played.master(0) if argument == played.master(1) else argument for argument in call]).stdout
    assert "central is not told from base on these 16 rows" in shown
    assert "of the lead of central over base" in fedlpp(*call).stdout


def test_a_runs_history_has_a_line_for_each_round(fedlpp, call, played):
    shown = fedlpp(*[played.folder if argument == played.master(1) else argument for argument in call]).stdout
    assert shown.count("proxy, loss") == 1
    assert [line.split()[0] for line in shown.splitlines() if re.match(r"\s*[01]\s+\d+\.\d+ ±", line)] == ["0", "1"]
    assert shown.count("round 0") == 0  # in its line only


def test_seeds_are_shown_with_mean_and_deviation(fedlpp, call, llama, tmp_path):
    other = Federation(tmp_path / "other", llama, clients=("a",))
    other.play(1)
    named = [f"ours={call[1]}", f"ours={other.master(1)}"]
    shown = fedlpp(call[0], *named, *call[2:]).stdout
    assert shown.count("mean and sd of 2") == 2
    assert len(re.findall("gap recv .* over ours proxy, [0-9a-f]{12} ", shown)) == 2


def test_classes_are_shown_where_they_are_asked_for(fedlpp, bert, tmp_path):
    federation = Federation(tmp_path / "run", bert, task=TaskSpec(kind="seq-cls", max_length=16, labels=LABELS))
    for number, client in enumerate(federation.clients):
        write_jsonl(federation.data(client), label_rows(20, seed=number))
    federation.init()
    call = ["evaluate", federation.master(0), "--base", bert, "--data", federation.data("a"), "--device", "cpu"]
    assert "precision" not in fedlpp(*call).stdout
    shown = fedlpp(*call, "--per-class").stdout
    assert shown.count("precision") == 3
    assert max(map(len, shown.splitlines())) <= 110
    rows = json.loads(fedlpp(*call, "--json").stdout)["data"]["rows"]
    assert all(set(row["per_class"]) == set(LABELS) for row in rows)


def test_rows_that_were_trained_on_are_warned_of_in_one_line(fedlpp, call, played):
    assert "warning" not in fedlpp(*call, "--train-data", played.data("a")).stdout
    shown = fedlpp(*call, "--train-data", played.data("b")).stdout
    assert shown.splitlines()[-1] == "warning: 16 of 16 rows are in the training data too"
    assert json.loads(fedlpp(*call, "--alone", f"b={played.data('b')}", "--json").stdout)["data"]["n_overlap"] == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alone", "b"], "--alone b: no data for it; [clients] in the --federation file has a"),
        (["--fine-tuned", "b"], "--fine-tuned b: no data for it"),
        (["--alone", "B=x.jsonl"], "--alone 'B=x.jsonl': NAME=REF is needed"),
        (["--alone", "b="], "--alone 'b=': NAME=REF is needed"),
        (["--per-class"], "--per-class: a language model has no classes"),
        (["--every", "0"], "--every"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(fedlpp, call, options, message):
    result = fedlpp(*call, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
