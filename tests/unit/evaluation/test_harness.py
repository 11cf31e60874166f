"""Tasks of lm-evaluation-harness on a model that is open already; run for real where the package is there."""

import importlib.util
import json

import pytest

from fedlpp_cli import evaluate
from fedlpp_cli.errors import InputError, UsageError

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")


def score(played, **options):
    return evaluate([played.master(1)], data=played.data("b"), base=played.base, device="cpu", **options)


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with a task whose answers are three words, one of which the first word tells."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"{word} ", "choices": ["ab", "cd", "ef"], "gold": n % 3} for n, word in enumerate(["ab", "cd"] * 5)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    return tmp_path


@pytest.mark.skipif(HAS_HARNESS, reason="lm_eval is installed")
def test_without_the_package_it_says_how_to_get_it(played):
    with pytest.raises(UsageError, match="--harness needs the package lm_eval") as found:
        score(played, harness=["hellaswag"])
    assert found.value.hint == "pip install 'fedlpp[harness]'"


def test_its_tasks_need_a_name(played, tmp_path):
    with pytest.raises(UsageError, match="--harness-tasks: --harness says which"):
        score(played, harness_tasks=tmp_path)


@needs_harness
def test_each_model_gets_its_own_scores(played, tasks, capfd):
    result = score(played, harness=["tiny_choice"], harness_tasks=tasks)
    plain = score(played)
    for row, other in zip(result.rows, plain.rows, strict=True):
        assert set(row.scores) == {*other.scores, "tiny_choice acc"}
        assert {name: row.scores[name] for name in other.scores} == other.scores
        accuracy, interval = row.scores["tiny_choice acc"], row.intervals["tiny_choice acc"]
        assert 0 <= accuracy <= 1
        assert interval.low <= accuracy <= interval.high
    assert capfd.readouterr().err == ""


@needs_harness
def test_tasks_that_are_not_there(played, tasks):
    with pytest.raises(UsageError, match="lm_eval has no task 'nothing_like_it'"):
        score(played, harness=["tiny_choice", "nothing_like_it"], harness_tasks=tasks)
    with pytest.raises(InputError, match="no such folder with tasks"):
        score(played, harness=["tiny_choice"], harness_tasks=tasks / "nowhere")
    (tasks / "data.jsonl").unlink()
    with pytest.raises(InputError, match="lm_eval cannot run it"):
        score(played, harness=["tiny_choice"], harness_tasks=tasks)
