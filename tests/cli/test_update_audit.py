"""`fedlpp audit --update` as clients call it."""

import json

import pytest

from fedlpp_cli.cli.app import app


@pytest.fixture
def audit(runner, played, llama):
    def run(*options):
        fixed = [
            "audit", "--update", played.update(0, "a"), "--package", played.package(0), "--data", played.data("a"),
            "--base", llama, "--device", "cpu",
        ]  # fmt: skip
        return runner.invoke(app, [str(part) for part in (*fixed, *options)])

    return run


def test_what_it_prints(audit, played):
    done = audit("--control-data", played.data("b"), "--canaries", 16, "--noise-multiplier", 2)
    assert done.exit_code == 0, done.stderr
    for part in (
        "words",
        "update: 12 rows, 16 others; AUC",
        "without noise",
        "noise 2",
        "Stronger tests may find more",
    ):
        assert part in done.stdout
    assert played.data("a").name not in done.stdout


def test_more_than_max_auc_is_exit_code_12(audit, played, tmp_path):
    done = audit("--canaries", 0, "--max-auc", 0, "--out", tmp_path / "report.json", "--json")
    assert done.exit_code == 12
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "leakage"
    assert json.loads((tmp_path / "report.json").read_bytes())["spec"]["about"] == "audit-update"


def test_the_last_line_is_the_report(audit, tmp_path):
    done = audit("--canaries", 0, "--out", tmp_path / "report.json")
    assert done.stdout.rstrip().splitlines()[-1] == str(tmp_path / "report.json")
    again = audit("--canaries", 0, "--out", tmp_path / "report.json")
    assert again.exit_code == 8


def test_noise_and_epsilon_together_are_refused(audit):
    done = audit("--dp-epsilon", 8, "--noise-multiplier", 1)
    assert done.exit_code == 3
    assert "set one of them" in done.stderr
