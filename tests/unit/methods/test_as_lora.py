"""AS-LoRA: scores by hand, which factor a layer trains and why, what the owner remembers, and hostile scores."""

import json
import math

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge
from support.parties import RECIPE, Federation
from torch import nn

from fedlpp_cli import aggregate, client_train, init, verify
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import ArtifactError, InterruptedRunError, LineageError, UsageError
from fedlpp_cli.methods.as_lora import METHOD, layer_of, probability_of_a
from fedlpp_cli.methods.method import Answers, Asked
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import FactorPlan, FactorScores, MethodSpec
from fedlpp_cli.records.specs import AggregateSpec, BaseSpec, LoraSpec, ModelSpec, QuantSpec, TaskSpec
from fedlpp_cli.steps.checkpoints import Checkpointing
from fedlpp_cli.training.gradient_scores import gradient_scores

MODULES = ("layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v")
PLAN = FactorPlan(trains="modules", modules=dict.fromkeys(MODULES, "A"), scores=True)


def master(**fields):
    base = BaseSpec(model_type="llama", private=False, hub=None, files={})
    model = ModelSpec(base=base, task=TaskSpec(), lora=LoraSpec(target_modules=MODULES))
    return MasterSpec(model=model, seed=fields.pop("seed", 0), quantize=None, aggregate=None, **fields)


def factor(values, gradient, *, is_active=True):
    parameter = nn.Parameter(torch.tensor(values), requires_grad=is_active)
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameter


def test_scores_by_hand():
    parameters = {
        "layers.0.q.lora_A": factor([[0.0, 0.0]], None, is_active=False),
        "layers.0.q.lora_B": factor([[0.0], [0.0]], [[3.0], [4.0]]),
        "layers.0.v.lora_A": factor([[0.0, 0.0]], [[0.5, 0.5]]),
        "layers.1.q.lora_A": factor([[0.0, 0.0]], None),
        "head.weight": factor([[0.0]], [[9.0]]),
    }
    # 25 - 2 x 0.25 x 0.25 x 16; 0.5 - 2, which is less than nothing; no gradient at all.
    assert gradient_scores(parameters, 1.0) == {"layers.0.q": 23.0, "layers.0.v": 0.0, "layers.1.q": 0.0}
    assert gradient_scores(parameters, 0.0) == {"layers.0.q": 25.0, "layers.0.v": 0.5, "layers.1.q": 0.0}


def test_noise_alone_scores_about_nothing():
    draws = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(64, 512))
    parameter.grad = 3.0 * torch.randn(64, 512, generator=draws)
    energy = 64 * 512 * 9.0
    assert gradient_scores({"q.lora_A": parameter}, 3.0)["q"] <= 0.05 * energy
    assert gradient_scores({"q.lora_A": parameter}, 0.0)["q"] == pytest.approx(energy, rel=0.05)


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("model.layers.3.self_attn.q_proj", "model.layers.3"),
        ("transformer.h.0.attn.c_attn", "transformer.h.0"),
        ("lm_head", "lm_head"),
    ],
)
def test_a_layer_is_a_block(module, layer):
    assert layer_of(module) == layer


def test_layers_take_turns_while_they_warm_up():
    spec = master(method_options=MethodSpec(warmup_rounds=4))
    assert [set(METHOD.plan(spec, number).modules.values()) for number in range(4)] == [{"B"}, {"A"}, {"B"}, {"A"}]
    assert METHOD.plan(spec, 0).scores


def test_probabilities_by_hand():
    scores = FactorScores(a=3.0, b=1.0)
    assert probability_of_a(scores, 1) == pytest.approx(1 / (1 + math.exp(-0.5 / 0.95)))
    assert probability_of_a(scores, 45) == pytest.approx(1 / (1 + math.exp(-5.0)))  # 0.95^45 is below 0.1
    assert probability_of_a(FactorScores(a=1.0, b=3.0), 45) == pytest.approx(1 / (1 + math.exp(5.0)))
    assert probability_of_a(FactorScores(a=0.0, b=0.0), 9) == 0.5


def test_a_layer_trains_the_factor_that_scored_most_of_the_time():
    scores = {"layers.0": FactorScores(a=3.0, b=1.0), "layers.1": FactorScores(a=1.0, b=1.0)}
    spec = master(layer_scores=scores)
    plans = [METHOD.plan(spec, number).modules for number in range(100, 500)]
    assert all(plan["layers.0.q"] == plan["layers.0.v"] for plan in plans)
    shares = [sum(plan[f"layers.{layer}.q"] == "A" for plan in plans) / len(plans) for layer in (0, 1)]
    assert shares[0] == pytest.approx(1 / (1 + math.exp(-5.0)), abs=0.03)
    assert shares[1] == pytest.approx(0.5, abs=0.1)
    assert METHOD.plan(spec, 100) == METHOD.plan(spec, 100)
    other = master(layer_scores=scores, seed=1)
    assert plans != [METHOD.plan(other, number).modules for number in range(100, 500)]


def test_only_the_score_of_the_factor_that_was_trained_moves():
    plan = FactorPlan(
        trains="modules", scores=True,
        modules={"layers.0.q": "A", "layers.0.v": "A", "layers.1.q": "B", "layers.1.v": "B"},
    )  # fmt: skip
    one = {"layers.0.q": 1.0, "layers.0.v": 2.0, "layers.1.q": 4.0, "layers.1.v": 0.0}
    two = {"layers.0.q": 3.0, "layers.0.v": 2.0, "layers.1.q": 8.0, "layers.1.v": 0.0}
    before = {"layers.0": FactorScores(a=14.0, b=5.0)}
    answers = Answers(plan=plan, scores=[one, two], aggregate=AggregateSpec())
    assert METHOD.next_scores(master(layer_scores=before), answers) == {
        "layers.0": FactorScores(a=13.0, b=5.0),  # 0.9 x 14 + 0.1 x (3 + 5) / 2
        "layers.1": FactorScores(a=None, b=6.0),
    }
    loud = dict.fromkeys(one, 1e30)
    robust = replace(answers.aggregate, rule="median")
    answers = Answers(plan=plan, scores=[one, two, loud], aggregate=robust)
    assert METHOD.next_scores(master(), answers)["layers.1"] == FactorScores(b=8.0)


def test_what_does_not_go_with_scores_is_refused():
    noisy = AggregateSpec(client_noise_multiplier=1.0, clip_norm=1.0, expected_clients=10)
    with pytest.raises(UsageError, match="noise for clients does not cover them"):
        METHOD.check(Asked(aggregate=noisy))


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama):
    """Four rounds, of which two warm up. Read only."""
    made = Federation(
        tmp_path_factory.mktemp("as-lora"), llama, method="as-lora", train=RECIPE,
        lora=LoraSpec(rank=2, target_modules=("q_proj", "v_proj")), quantize=QuantSpec(bits="4", block=16),
        method_options=MethodSpec(warmup_rounds=2),
    )  # fmt: skip
    made.play(4)
    return made


def test_scores_travel_and_the_owner_keeps_them(run):
    for number in range(4):
        factors = header_of(run.proxy(number)).spec.factors
        for client in run.clients:
            update = run.update(number, client)
            scores = header_of(update).spec.scores
            assert scores.keys() == factors.modules.keys()
            assert all(score >= 0 for score in scores.values())
            assert set(read_all(update)) == {f"{module}.lora_{kind}" for module, kind in factors.modules.items()}
    kept = [header_of(run.master(number)).spec for number in range(5)]
    assert [spec.method_options.warmup_rounds for spec in kept] == [2] * 5
    assert kept[0].layer_scores == {}
    assert all(scores.b > 0 and scores.a is None for scores in kept[1].layer_scores.values())
    assert all(scores.b > 0 and scores.a > 0 for scores in kept[2].layer_scores.values())
    verify([run.folder], rerun=True)


def run_again(run, out, **options):
    return client_train(
        run.package(0), client="a", data=run.data("a"), out=out, base=run.base, device="cpu", force=True, **options
    )


def test_a_training_that_stopped_behind_its_last_step_has_its_scores(run, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise InterruptedRunError("in front of the update")

    path = tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr("fedlpp_cli.steps.client_train.write_update", stop)
        with pytest.raises(InterruptedRunError):
            run_again(run, tmp_path / "update", checkpoint=Checkpointing(path=path))
    assert path.exists()
    assert not (tmp_path / "update").exists()
    result = run_again(run, tmp_path / "update", checkpoint=Checkpointing(path=path))
    assert result.resumed_from == RECIPE.steps
    assert header_of(tmp_path / "update").spec.scores == header_of(run.update(0, "a")).spec.scores


@pytest.mark.parametrize("bad", [{}, {"elsewhere": 1.0}])
def test_scores_of_other_modules_are_refused(run, tmp_path, bad):
    spec = header_of(run.update(0, "a")).spec
    scores = {**spec.scores, **bad} if bad else {}
    forged = reforge(run.update(0, "a"), tmp_path / "forged", spec=replace(spec, scores=scores))
    with pytest.raises(LineageError, match="score of module"):
        aggregate(run.master(0), [forged], packages=[run.package(0)], out=tmp_path / "next")
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("score", [-1.0, 1e31])
def test_a_score_that_is_no_energy_is_in_no_artifact(run, tmp_path, score):
    spec = header_of(run.update(0, "a")).spec
    wrong = replace(spec, scores={**spec.scores, min(spec.scores): score})
    with pytest.raises(ArtifactError):
        reforge(run.update(0, "a"), tmp_path / "forged", spec=wrong)


def test_an_option_of_another_method_is_refused(tmp_path, llama):
    with pytest.raises(UsageError, match="method rolora: warmup_rounds 4 means nothing to it"):
        init(
            llama, out=tmp_path / "m", task=TaskSpec(max_length=16), method="rolora",
            method_options=MethodSpec(warmup_rounds=4),
        )  # fmt: skip


FILE = """
base = "{base}"
seed = 7
[task]
max_length = 32
[lora]
rank = 2
target_modules = ["q_proj", "v_proj"]
[quantize]
bits = "4"
block = 16
[train]
steps = 3
batch_size = 4
learning_rate = 1e-2
[clients]
a = "{a}"
b = "{b}"
"""


def test_a_simulation_is_told_how_long_it_warms_up_and_keeps_to_it(run, runner, tmp_path):
    (tmp_path / "f.toml").write_text(FILE.format(base=run.base, a=run.data("a"), b=run.data("b")))

    def simulate(*options):
        call = ["simulate", "-f", tmp_path / "f.toml", "--device", "cpu", "--out", tmp_path / "run", *options, "--json"]
        done = runner.invoke(app, [*map(str, call)])
        said = json.loads(done.stdout)
        return done.exit_code, said.get("data") or said["error"]

    method = ("--method", "as-lora", "--rounds", 1)
    assert simulate("--warmup-rounds", 2)[0] == 2  # nothing that fedlpp knows
    assert simulate(*method, "--warmup-rounds", 1)[0] == 2  # both factors are to be known
    assert not (tmp_path / "run").exists()
    assert simulate(*method, "--warmup-rounds", 2)[0] == 0
    assert (tmp_path / "run" / "round-0001" / "master.safetensors").read_bytes() == run.master(1).read_bytes()
    for options, found, hint in (
        ((), "warmup_rounds are 2, not as in the paper", "--warmup-rounds 2"),
        (("--warmup-rounds", 4), "warmup_rounds are 2, not 4", "--warmup-rounds 2"),
    ):
        code, error = simulate(*method, *options)
        assert (code, error["code"], error["hint"]) == (5, "lineage", hint)
        assert found in error["message"]
    assert simulate(*method, "--warmup-rounds", 2)[1]["rounds"] == []
