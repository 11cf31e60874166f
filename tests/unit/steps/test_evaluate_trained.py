"""What a client gets alone, and what it makes of a proxy: as the commands would make it."""

import pytest
from support.forge import read_all
from support.parties import Federation
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli import evaluate
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import DataError, GateError, UsageError
from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.evaluation.scored import mean_scores
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import QuantSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.data import load_data


def score(federation, *artifacts, **options):
    artifacts = artifacts or (federation.master(1),)
    options.setdefault("train", federation.train)
    return evaluate(
        artifacts, data=options.pop("data", federation.data("b")), base=federation.base, device="cpu", **options
    )


def rows_of(result):
    return {row.model: row for row in result.rows}


def loss_after_round(federation, number, client):
    """Of the model that a client has when it has trained: proxy plus update."""
    update = read_all(federation.update(number, client))
    with TensorFile(federation.proxy(number), ProxyHeader) as proxy:
        values = {name: read_component(proxy, name) + update[name] for name in proxy.header.spec.shapes}
        lora = proxy.header.spec.model.lora
    task = CausalLM(federation.task, open_tokenizer(federation.base), {})
    adapted = AdaptedModel(open_model(federation.base, federation.task).model, lora)
    adapted.load(values)
    examples = load_data(federation.data("b"), task, columns={}).examples
    return mean_scores(measure(adapted, task, examples, 8, lambda done, total: None))["loss"]


def test_alone_is_a_federation_of_one_without_rounding(llama, tmp_path):
    both = Federation(tmp_path / "both", llama)
    both.play(2)
    steps = 2 * both.train.steps
    one = Federation(
        tmp_path / "one", llama, clients=("b",), quantize=QuantSpec(bits="full"),
        train=TrainSpec(steps=steps, batch_size=4, learning_rate=1e-2),
    )  # fmt: skip
    write_jsonl(one.data("b"), prompt_rows(16, seed=1))
    one.play(1)
    result = score(both, both.master(2), alone_on={"b": both.data("b")})
    alone = rows_of(result)["b alone"]
    expected = rows_of(score(one))["central"]
    assert alone.scores == pytest.approx(expected.scores, rel=1e-5)
    assert (alone.role, alone.round, alone.artifact) == ("alone", None, None)
    assert alone.detail == f"{steps} steps on 16 rows: 2 rounds of 3"
    gap = next(gap for gap in result.gaps if gap.name == "alone")
    assert (gap.ahead, gap.behind) == ("proxy", "b alone")
    assert gap.value == pytest.approx(alone.scores["loss"] - rows_of(result)["proxy"].scores["loss"], abs=1e-5)


def test_a_proxy_is_fine_tuned_as_its_client_would_train_it(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama)
    federation.play(1)
    federation.send(1)
    federation.train_client(1, "a")
    result = score(federation, federation.master(1), federation.package(1), fine_tune_on={
        name: federation.data(name) for name in ("a", "b")
    })  # fmt: skip
    tuned = rows_of(result)["a fine-tuned"]
    trained = {name: row.scores["loss"] for name, row in rows_of(result).items()}
    assert trained["a fine-tuned"] == pytest.approx(loss_after_round(federation, 1, "a"), rel=1e-5)
    assert trained["a fine-tuned"] != trained["b fine-tuned"] != trained["proxy"]
    assert (tuned.role, tuned.detail) == ("fine-tuned", "round 1, 3 steps on 12 rows")
    best = min("a fine-tuned", "b fine-tuned", key=trained.get)
    gap = next(gap for gap in result.gaps if gap.name == "ft")
    assert (gap.ahead, gap.behind) == ("central", best)
    assert gap.value == pytest.approx(trained[best] - trained["central"], abs=1e-5)


def test_a_full_precision_proxy_fine_tuned_is_the_round_of_its_client(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, clients=("a",), quantize=QuantSpec(bits="full"))
    federation.play(2)
    tuned = rows_of(score(federation, data=federation.data("a"), fine_tune_on={"a": federation.data("a")}))
    after = rows_of(score(federation, federation.master(2), data=federation.data("a")))
    assert tuned["a fine-tuned"].scores == pytest.approx(after["central"].scores, rel=1e-5)


def test_training_leaves_the_other_rows_as_they_are(played):
    plain = rows_of(score(played))
    others = {"a": played.data("a"), "b": played.data("b")}
    trained = rows_of(score(played, alone_on=others, fine_tune_on=others))
    assert {name: trained[name] for name in plain} == plain
    assert set(trained) - set(plain) == {"a alone", "b alone", "a fine-tuned", "b fine-tuned"}


def test_the_recipe_is_that_of_the_newest_package_where_none_is_given(played):
    plain = score(played, alone_on={"a": played.data("a")})
    assert score(played, played.master(1), played.package(0), alone_on={"a": played.data("a")}, train=None).rows[
        -1
    ] == pytest.approx(plain.rows[-1])
    with pytest.raises(UsageError, match="--alone: the recipe is not known"):
        score(played, alone_on={"a": played.data("a")}, train=None)


def test_held_out_rows_that_were_trained_on_are_counted(played, tmp_path):
    assert score(played).n_overlap is None
    assert score(played, alone_on={"a": played.data("a")}, data=played.data("b")).n_overlap == 0
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [*prompt_rows(16, seed=1)[:5], *prompt_rows(9, seed=77)])
    result = score(played, data=mixed, train_data=[played.data("b")], out=tmp_path / "report.json")
    assert result.n_overlap == 5
    assert read_report(tmp_path / "report.json").header.spec.n_overlap == 5
    # By what the model is shown, not by the bytes of the file.
    respelled = [
        {"completion": row["completion"], "note": "x", "prompt": row["prompt"]} for row in prompt_rows(4, seed=1)
    ]
    again = write_jsonl(tmp_path / "again.jsonl", respelled)
    assert score(played, data=played.data("b"), train_data=[again]).n_overlap == 4


def test_what_cannot_be_trained_is_told_before_anything_is_scored(played, tmp_path):
    data = {"a": played.data("a")}
    with pytest.raises(UsageError, match="--alone: this is the first master"):
        score(played, played.master(0), alone_on=data)
    for option in ("alone_on", "fine_tune_on"):
        with pytest.raises(UsageError, match="needs a master, or a run folder"):
            score(played, played.package(0), **{option: data})
    with pytest.raises(DataError, match="no rows"):
        score(played, alone_on={"a": write_jsonl(tmp_path / "empty.jsonl", [])})


def test_a_training_that_runs_away_says_whose_it_was(played):
    wild = TrainSpec(steps=200, batch_size=4, learning_rate=1e6, optimizer="sgd", max_grad_norm=0)
    with pytest.raises(GateError, match=r"^a alone: "):
        score(played, alone_on={"a": played.data("a")}, train=wild)
