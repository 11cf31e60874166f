"""Groups of tensors, and what rounding does to loss and gradient."""

import math

import pytest
import torch
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli.adapters.components import initial_value
from fedlpp_cli.adapters.ranks import first_terms, lora_of_rank
from fedlpp_cli.models.adapted import component_shapes
from fedlpp_cli.models.first_values import resolve_lora
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.planning.probe import Bench, Slope, change, proxy_values
from fedlpp_cli.planning.sensitivity import sensitivities, tensor_groups
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import FULL_PRECISION, LoraSpec, QuantSpec, TaskSpec
from fedlpp_cli.tasks.data import load_data
from fedlpp_cli.tasks.kinds import task_for

NAMES = ("model.layers.0.self_attn.q_proj.lora_A", "model.layers.11.self_attn.q_proj.lora_B", "score.weight",
         "head.dense.bias")  # fmt: skip


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("none", ()),
        ("factor", ("head.dense", "lora_A", "lora_B", "score")),
        ("module", ("head.dense", "q_proj", "score")),
        ("layer", ("head.dense", "layers.0", "layers.11", "score")),
    ],
)
def test_groups_have_the_names_that_quantize_knows(by, groups):
    assert tensor_groups(NAMES, by) == groups
    spec = QuantSpec(groups=dict.fromkeys(groups, "5"))
    assert {spec.of(name).bits for name in NAMES} == ({"5"} if groups else {"3"})


@pytest.fixture(scope="module")
def bench(llama, tmp_path_factory):
    spec = TaskSpec(max_length=32)
    lora = resolve_lora(llama, spec, LoraSpec(rank=4))
    task = task_for(spec, open_tokenizer(llama), {})
    rows = write_jsonl(tmp_path_factory.mktemp("probe") / "rows.jsonl", prompt_rows(12, seed=3))
    held_out = load_data(rows, task, columns={}).examples
    made = Bench(task=task, device="cpu", batch_size=5, held_out=held_out, n_gradient=8)
    shapes = component_shapes(open_model(llama, spec, device="meta").model, lora)
    draw = torch.Generator().manual_seed(0)
    theta = {name: initial_value(name, shape, seed=0) + 0.05 * torch.randn(shape, generator=draw)
             for name, shape in shapes.items()}  # fmt: skip
    return made, llama, lora, shapes, theta


def test_the_gradient_is_that_of_the_mean_loss_by_differences(bench):
    made, folder, lora, _, theta = bench
    slope = made.slope(folder, lora, theta)
    draw = torch.Generator().manual_seed(1)
    way = {name: torch.randn(value.shape, generator=draw) for name, value in theta.items()}
    h = 1e-3
    ends = [made.slope(folder, lora, {n: v + s * h * way[n] for n, v in theta.items()}).loss for s in (1, -1)]
    along = sum(float((slope.gradient[name].double() * way[name].double()).sum()) for name in theta)
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(along, rel=0.02)


def test_nothing_changes_where_nothing_is_rounded(bench):
    made, folder, lora, _, theta = bench
    whole = made.slope(folder, lora, theta)
    same = made.slope(folder, lora, proxy_values(theta, FULL_PRECISION, 4))
    found = change(same, whole, gain=1.0, trade_off=1.0, rank=4)
    assert (found.loss_increase, found.gradient_change, found.score) == (0.0, 0.0, 0.0)
    assert found.cosine == pytest.approx(1.0, abs=1e-12)


def test_the_score_weighs_the_loss_as_a_share_of_what_was_gained():
    whole = Slope(1.0, {"m.lora_A": torch.tensor([[3.0, -4.0], [9.0, 9.0]]), "m.lora_B": torch.tensor([[1.0, 7.0]])})
    moved = Slope(1.5, {"m.lora_A": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "m.lora_B": torch.tensor([[2.0, 0.0]])})
    found = change(moved, whole, gain=2.0, trade_off=4.0, rank=1)
    assert found.loss_increase == 0.5
    assert found.gradient_change == pytest.approx(9 / 8)
    assert found.cosine == pytest.approx((9 - 16 + 2) / math.sqrt(26 * 29))
    assert found.score == pytest.approx(9 / 8 - 4 * 0.5 / 2)
    without_gain = change(moved, whole, gain=-1.0, trade_off=4.0, rank=1)
    assert without_gain.score == pytest.approx(9 / 8 - 4 * 0.5)


def test_a_lower_rank_is_the_same_model_without_its_last_terms(bench):
    made, folder, lora, _, theta = bench
    low = proxy_values(theta, FULL_PRECISION, 2)
    cut = {name: first_terms(name, value, 2) for name, value in theta.items()}
    assert all(low[name].equal(cut[name]) for name in cut)
    here, there = made.scored(folder, lora, low), made.scored(folder, lora_of_rank(lora, 2), cut)
    assert here.losses == pytest.approx(there.losses, abs=1e-5)


def test_a_proxy_is_what_quantize_makes(bench):
    _, _, _, _, theta = bench
    spec = QuantSpec(bits="2", block=16, groups={"lora_B": "4"})
    whole, low = proxy_values(theta, spec, 4), proxy_values(theta, spec, 2)
    for name, value in theta.items():
        expected = round_tensor(value, spec.of(name), name=name)
        assert whole[name].equal(expected)
        assert low[name].equal(round_tensor(first_terms(name, expected, 2), spec.of(name), name=name))


def test_only_the_group_is_rounded(bench):
    made, folder, lora, shapes, theta = bench
    whole, seen = made.slope(folder, lora, theta), []

    def measured(spec):
        seen.append(proxy_values(theta, spec, 4))
        return change(made.slope(folder, lora, seen[-1]), whole, gain=1.0, trade_off=1.0, rank=4)

    rows = sensitivities(shapes, ["lora_A", "layers.1"], ["4", "2"], lambda bits: QuantSpec(bits=bits), measured)
    assert [(row.group, row.bits) for row in rows] == [
        ("lora_A", "4"), ("lora_A", "2"), ("layers.1", "4"), ("layers.1", "2"),
    ]  # fmt: skip
    for row, values in zip(rows, seen, strict=True):
        changed = {name for name, value in values.items() if not value.equal(theta[name])}
        assert changed == {name for name in shapes if f".{row.group}." in f".{name}."}
    assert rows[0].n_bytes > rows[1].n_bytes
    assert rows[0].cosine > rows[1].cosine
    assert rows[0].gradient_change < rows[1].gradient_change
