"""Plans, draws and scores as they come from another party: read strictly."""

import pytest

from fedlpp_cli.adapters.trained import check_plan, factor_of, trained_at, trained_shapes
from fedlpp_cli.errors import ArtifactError, LineageError
from fedlpp_cli.records.methods import DrawnFactors, FactorPlan, FactorScores, MethodSpec
from fedlpp_cli.records.record import read_record, to_plain

SHAPES = {
    "head.weight": (3, 6),
    "q.lora_A": (2, 6),
    "q.lora_B": (6, 2),
    "v.lora_A": (2, 6),
    "v.lora_B": (6, 2),
}
MIXED = FactorPlan(trains="modules", modules={"q": "A", "v": "B"}, scores=True)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (FactorPlan, {"trains": "C"}),
        (FactorPlan, {"trains": "modules"}),
        (FactorPlan, {"trains": "modules", "modules": {"q": "C"}}),
        (FactorPlan, {"trains": "modules", "modules": {"q*": "A"}}),
        (FactorPlan, {"trains": "B", "modules": {"q": "A"}}),
        (FactorPlan, {"trains": "B", "scores": True}),
        (FactorPlan, {"trains": "both", "filter": True}),
        (DrawnFactors, {"seed": -1, "rank": 2, "sha256": "0" * 64}),
        (DrawnFactors, {"seed": 0, "rank": 2000, "sha256": "0" * 64}),
        (DrawnFactors, {"seed": 0, "rank": 2, "sha256": "0"}),
        (MethodSpec, {"warmup_rounds": 1}),
        (FactorScores, {"a": -1.0}),
        (FactorScores, {"a": 1e31}),
        (FactorScores, {"a": float("nan")}),
    ],
)
def test_what_makes_no_sense_is_refused(kind, raw):
    with pytest.raises(ArtifactError, match=r"^here: "):
        read_record(raw, kind, source="here", error=ArtifactError)


@pytest.mark.parametrize(
    "record", [FactorPlan(), MIXED, DrawnFactors(seed=1, rank=2, sha256="0" * 64), FactorScores(a=0.0, b=1e30)]
)
def test_what_is_written_is_read(record):
    assert read_record(to_plain(record), type(record), source="here", error=ArtifactError) == record


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (FactorPlan(), set(SHAPES)),
        (FactorPlan(trains="steps"), set(SHAPES)),
        (FactorPlan(trains="A"), {"head.weight", "q.lora_A", "v.lora_A"}),
        (FactorPlan(trains="B"), {"head.weight", "q.lora_B", "v.lora_B"}),
        (MIXED, {"head.weight", "q.lora_A", "v.lora_B"}),
    ],
)
def test_what_a_round_trains(plan, expected):
    assert set(trained_shapes(SHAPES, plan)) == expected
    assert list(trained_shapes(SHAPES, plan)) == [name for name in SHAPES if name in expected]
    assert set.union(*(trained_at(SHAPES, plan, step) for step in range(2))) == expected
    assert plan.is_of_one_factor == (len({factor_of(name) for name in expected if name.startswith("q.")}) == 1)


def test_turns_begin_with_b_and_heads_wait_for_none():
    plan = FactorPlan(trains="steps")
    assert [trained_at(SHAPES, plan, step) for step in range(3)] == [
        {"head.weight", "q.lora_B", "v.lora_B"},
        {"head.weight", "q.lora_A", "v.lora_A"},
        {"head.weight", "q.lora_B", "v.lora_B"},
    ]


@pytest.mark.parametrize("modules", [{"q": "A"}, {"q": "A", "v": "B", "x": "A"}, {"q": "A", "head": "B"}])
def test_a_plan_of_other_modules_than_the_adapters_is_refused(modules):
    check_plan(MIXED, SHAPES, source="here")
    with pytest.raises(LineageError, match="here: its plan of factors and its adapter differ in module"):
        check_plan(FactorPlan(trains="modules", modules=modules), SHAPES, source="here")
