"""Scores, side by side."""

import math

import pytest
import torch
from support.forge import read_all, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, write_jsonl

from fedlpp_cli import evaluate, export
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.errors import DataError, GateError, LineageError, UsageError
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.records.specs import EvaluateSpec, QuantSpec, TaskSpec, TrainSpec


def score(played, *artifacts, **options):
    artifacts = artifacts or (played.master(1),)
    return evaluate(artifacts, data=options.pop("data", played.data("b")), base=played.base, device="cpu", **options)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory, bert):
    """A federation of classifiers after a round that taught them something."""
    folder = tmp_path_factory.mktemp("classifiers")
    federation = Federation(
        folder,
        bert,
        task=TaskSpec(kind="seq-cls", max_length=16, labels=LABELS),
        train=TrainSpec(steps=60, batch_size=16, learning_rate=1e-2),
    )
    for number, client in enumerate(federation.clients):
        write_jsonl(federation.data(client), label_rows(60, seed=number))
    write_jsonl(folder / "data" / "test.jsonl", label_rows(40, seed=9))
    federation.play(1)
    return federation


def test_a_master_stands_for_base_proxy_and_central(played):
    result = score(played)
    assert [row.model for row in result.rows] == ["base", "proxy", "central"]
    assert [row.artifact for row in result.rows] == [None, sha256_of(played.master(1)), sha256_of(played.master(1))]
    assert len({row.scores["loss"] for row in result.rows}) == 3


def test_the_base_row_is_the_base_model_itself(played):
    """Worked out with plain transformers: summed loss of the completion's tokens over their number."""
    from support.tiny import prompt_rows

    model, tokenizer = open_model(played.base, played.task).model, open_tokenizer(played.base)
    total = count = 0
    for row in prompt_rows(16, seed=1):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([[*prompt, *tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = model(ids).logits[0].log_softmax(-1)
        for position in range(len(prompt), ids.shape[1]):
            total -= logits[position - 1, ids[0, position]].item()
            count += 1
    scores = score(played).rows[0].scores
    assert scores["loss"] == pytest.approx(total / count, rel=1e-4)
    assert scores["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-3)


def test_batch_size_and_order_of_rows_change_nothing(played):
    losses = [[row.scores["loss"] for row in score(played, spec=EvaluateSpec(batch_size=n)).rows] for n in (1, 3, 64)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)


def test_the_proxy_is_rounded_as_in_its_last_round_unless_told_otherwise(played):
    default = score(played).rows[1]
    assert default.detail == "round 1, 3 bits, block 64"
    assert score(played, quantize=QuantSpec(bits="3", block=64)).rows[1].scores == default.scores
    assert score(played, quantize=QuantSpec(bits="ternary")).rows[1].scores != default.scores


def test_a_full_precision_proxy_is_no_row_of_its_own(played):
    result = score(played, quantize=QuantSpec(bits="full"))
    assert [row.model for row in result.rows] == ["base", "central"]
    assert result.gap is None


def test_a_package_in_front_of_its_master_takes_the_proxys_place(played):
    rows = score(played, played.master(0), played.package(0)).rows
    assert [row.model for row in rows] == ["base", "central", "proxy"]
    assert score(played, played.proxy(0)).rows[1].scores == rows[2].scores


def test_names_tell_several_masters_apart(played):
    rows = score(played, f"first={played.master(0)}", f"second={played.master(1)}").rows
    assert [row.model for row in rows] == ["base", "first proxy", "first central", "second proxy", "second central"]


def test_a_peft_adapter_scores_as_its_master(played, tmp_path):
    export(played.master(1), out=tmp_path / "peft")
    rows = {row.model: row.scores for row in score(played, played.master(1), f"exported={tmp_path / 'peft'}").rows}
    assert rows["exported"] == rows["central"]
    with pytest.raises(UsageError, match="put a master in front"):
        score(played, tmp_path / "peft")


def test_a_classifier_is_scored_by_accuracy_and_f1(classifiers):
    data = classifiers.folder / "data" / "test.jsonl"
    rows = {row.model: row.scores for row in score(classifiers, data=data).rows}
    assert set(rows["central"]) == {"loss", "accuracy", "macro_f1"}
    assert rows["central"]["accuracy"] > rows["base"]["accuracy"]
    assert rows["central"]["accuracy"] > 0.6
    assert rows["central"]["loss"] < rows["base"]["loss"]


def test_the_gap_is_how_far_central_is_ahead(played, classifiers):
    rows = {row.model: row.scores for row in score(played).rows}
    assert score(played).gap == pytest.approx(rows["proxy"]["loss"] - rows["central"]["loss"], abs=1e-5)
    data = classifiers.folder / "data" / "test.jsonl"
    result = score(classifiers, data=data)
    rows = {row.model: row.scores for row in result.rows}
    assert result.gap == pytest.approx(rows["central"]["accuracy"] - rows["proxy"]["accuracy"], abs=1e-5)


def test_every_score_has_its_interval_around_it_and_a_gap_that_of_pairs(played, classifiers):
    for result in (score(played), score(classifiers, data=classifiers.folder / "data" / "test.jsonl")):
        for row in result.rows:
            assert set(row.intervals) == set(row.scores)
            assert all(
                row.intervals[name].low <= value <= row.intervals[name].high for name, value in row.scores.items()
            )
        (gap,) = result.gaps
        assert (gap.name, gap.ahead, gap.behind, gap.round, gap.value) == ("recv", "central", "proxy", 1, result.gap)
        assert gap.interval.low <= gap.value <= gap.interval.high
    # Proxy and central are nearly the same model: paired, their difference is surer than either of them.
    width = {row.model: row.intervals["loss"].high - row.intervals["loss"].low for row in score(played).rows}
    (gap,) = score(played).gaps
    assert gap.interval.high - gap.interval.low < width["central"] / 2


def test_one_example_has_scores_and_no_intervals(played):
    result = score(played, spec=EvaluateSpec(limit=1))
    assert [row.intervals for row in result.rows] == [{}, {}, {}]
    assert result.gaps[0].interval is None


def test_what_the_proxy_has_of_centrals_lead(played, classifiers):
    rows = {row.model: row.scores["accuracy"] for row in score(classifiers, data=classifiers.data("a")).rows}
    found = score(classifiers, data=classifiers.data("a")).recovery
    expected = (rows["proxy"] - rows["base"]) / (rows["central"] - rows["base"])
    assert found.rho == pytest.approx(expected, abs=1e-4)
    assert found.rho_interval.low <= found.rho <= found.rho_interval.high
    untold = score(played, played.master(0)).recovery  # nothing was learned yet
    assert (untold.rho, untold.rho_interval) == (None, None)
    assert untold.gain == pytest.approx(0, abs=1e-6)
    assert score(played, quantize=QuantSpec(bits="full")).recovery is None


def test_classes_have_scores_of_their_own(played, classifiers):
    data = classifiers.folder / "data" / "test.jsonl"
    central = score(classifiers, data=data).rows[-1]
    assert tuple(central.per_class) == LABELS
    assert sum(one["n"] for one in central.per_class.values()) == 40
    assert central.scores["macro_f1"] == pytest.approx(
        sum(one["f1"] for one in central.per_class.values()) / len(LABELS), abs=1e-5
    )
    hits = sum(one["recall"] * one["n"] for one in central.per_class.values())
    assert central.scores["accuracy"] == pytest.approx(hits / 40, abs=1e-5)
    assert score(played).rows[-1].per_class == {}
    with pytest.raises(UsageError, match="a language model has no classes"):
        score(played, per_class=True)


def test_a_clients_package_of_a_classifier_has_no_base_row(classifiers):
    rows = score(classifiers, classifiers.package(0), data=classifiers.folder / "data" / "test.jsonl").rows
    assert [row.model for row in rows] == ["proxy"]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_completions_are_decoded_without_sampling_and_compared(played, num_beams):
    spec = EvaluateSpec(generate=True, num_beams=num_beams, max_new_tokens=6, batch_size=5)
    first, second = score(played, spec=spec), score(played, spec=spec)
    assert [row.scores for row in first.rows] == [row.scores for row in second.rows]
    assert {"bleu", "chrf", "rouge_l", "exact_match"} < set(first.rows[0].scores)
    assert set(first.rows[0].intervals) == set(first.rows[0].scores)


def test_greedy_completions_are_those_of_plain_transformers(played):
    from fedlpp_cli.evaluation.score import generate
    from fedlpp_cli.models.adapted import AdaptedModel
    from fedlpp_cli.records.specs import LoraSpec
    from fedlpp_cli.tasks.causal_lm import CausalLM
    from fedlpp_cli.tasks.data import load_data

    tokenizer = open_tokenizer(played.base)
    task = CausalLM(played.task, tokenizer, {})
    data = load_data(played.data("b"), task, columns={})
    adapted = AdaptedModel(open_model(played.base, played.task).model, LoraSpec(target_modules=()))
    found = generate(adapted, task, data, EvaluateSpec(max_new_tokens=5, batch_size=4), lambda done, total: None)
    for row, text in zip(data.rows, found, strict=True):
        ids = torch.tensor([tokenizer(row.fields["prompt"])["input_ids"]])
        expected = adapted.model.generate(ids, do_sample=False, max_new_tokens=5, pad_token_id=0)
        assert text == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_only_rows_with_prompts_can_be_decoded(played, classifiers, tmp_path):
    spec = EvaluateSpec(generate=True)
    data = write_jsonl(tmp_path / "text.jsonl", [{"text": "ab cd"}])
    with pytest.raises(DataError, match="no field 'prompt'"):
        score(played, data=data, spec=spec)
    with pytest.raises(DataError, match="a classifier writes no text"):
        score(classifiers, data=classifiers.data("a"), spec=spec)


def test_a_limit_takes_the_first_rows(played):
    assert score(played, spec=EvaluateSpec(limit=3)).n_examples == 3


def test_a_report_names_what_was_scored(played, tmp_path):
    result = score(played, out=tmp_path / "report.json")
    report = read_report(tmp_path / "report.json").header
    assert report.parents["scored"] == (sha256_of(played.master(1)),)
    assert report.spec.data == result.data
    assert report.spec.rows == result.rows
    assert (report.spec.gaps, report.spec.recovery, report.spec.headline) == (result.gaps, result.recovery, "loss")
    other = score(played, data=played.data("a"))
    assert other.data != result.data


def test_artifacts_of_different_tasks_are_not_compared(played, classifiers):
    with pytest.raises(LineageError, match="different tasks"):
        evaluate([played.master(1), classifiers.master(1)], data=played.data("a"), base=played.base, device="cpu")


def test_what_cannot_be_scored_is_told(played):
    with pytest.raises(UsageError, match="at least one artifact"):
        evaluate([], data=played.data("a"))
    with pytest.raises(
        LineageError, match="is an update; a master, proxy, package, PEFT adapter or run folder is needed"
    ):
        score(played, played.update(0, "a"))


def test_a_model_that_is_broken_has_no_score(played, tmp_path):
    from support.forge import reforge

    from fedlpp_cli.records.headers import MasterHeader

    def huge(tensors):
        return {name: value * 0 + 1e30 for name, value in tensors.items()}

    broken = reforge(played.master(1), tmp_path / "broken.safetensors", kind=MasterHeader, change=huge)
    assert all(value.isfinite().all() for value in read_all(broken).values())
    with pytest.raises(GateError, match="the loss is"):
        score(played, broken, quantize=QuantSpec(bits="full"))
