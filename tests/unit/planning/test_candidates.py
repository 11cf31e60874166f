"""What a grid sweeps, and what it takes from the federation file."""

import pytest

from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.planning.candidates import Grid, candidates
from fedlpp_cli.planning.survey import mixed
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.plans import GroupRow
from fedlpp_cli.records.specs import AggregateSpec, BaseQuantSpec, LoraSpec, QuantSpec, TrainSpec

SHAPES = {"m.q.lora_A": (4, 100), "m.q.lora_B": (80, 4)}
OWN = QuantSpec(bits="5", rounding="stochastic", rounding_seed="a", scale_rounding="up", groups={"lora_B": "2"})


def test_every_combination_once_in_the_grids_order_and_the_federations_own_mix():
    grid = Grid(bits=("full", "3", "2"), blocks=(64, 1000), scales=("fp16", "double"))
    found = candidates(grid, FederationSpec(quantize=OWN), SHAPES)
    assert [(one.quantize.bits, one.quantize.block, one.quantize.scale) for one in found] == [
        ("full", 64, "fp16"), ("3", 64, "fp16"), ("2", 64, "fp16"), ("3", 400, "fp16"), ("2", 400, "fp16"),
        ("3", 64, "double"), ("2", 64, "double"), ("3", 400, "double"), ("2", 400, "double"), ("5", 64, "fp16"),
    ]  # fmt: skip
    assert found[-1].quantize == OWN
    assert all(one.quantize.groups == {} for one in found[:-1])
    drawn = [one.quantize for one in found[1:]]
    assert {(one.rounding, one.rounding_seed, one.scale_rounding) for one in drawn} == {("stochastic", "a", "up")}


def test_what_a_lower_rank_withholds_is_learned_by_products():
    found = candidates(Grid(bits=("3",), blocks=(64,), ranks=(4, 2)), FederationSpec(), SHAPES)
    assert [(one.rank, one.combine) for one in found] == [(4, "factors"), (2, "svd")]
    own = FederationSpec(aggregate=AggregateSpec(combine="residual"))
    assert [one.combine for one in candidates(Grid(ranks=(2,)), own, SHAPES)] == ["residual"] * 8
    kept = candidates(Grid(bits=("3",), blocks=(64,)), FederationSpec(proxy_rank=2), SHAPES)
    assert [(one.rank, one.combine) for one in kept] == [(2, "factors")]
    assert found[1].federation(FederationSpec()).aggregate.combine == "svd"


@pytest.mark.parametrize(
    ("federation", "grid", "message"),
    [
        (FederationSpec(), Grid(ranks=(5,)), "--rank 5: the master's is 4"),
        (
            FederationSpec(aggregate=AggregateSpec(rule="median")),
            Grid(ranks=(2,)),
            "combine svd, which goes with rule mean",
        ),
        (
            FederationSpec(train=TrainSpec(steps=1, optimizer="sgd", weight_decay=0.0, control_variates=True)),
            Grid(ranks=(2,)),
            "control variates go with the master's rank",
        ),
        (FederationSpec(), Grid(base_formats=("nf4",)), "the base is public"),
        (
            FederationSpec(private_base=True, base_quantize=BaseQuantSpec(format="nf3", keep=())),
            Grid(base_formats=("nf4",)),
            "--base-format: keep: bitsandbytes' nf4 has no embeddings",
        ),
        (FederationSpec(quantize=QuantSpec(groups={"lora_C": "2"})), Grid(), "--group lora_C"),
    ],
)
def test_what_a_federation_cannot_have_is_refused(federation, grid, message):
    with pytest.raises(UsageError, match=message):
        candidates(grid, federation, SHAPES)


def test_mixes_keep_to_the_bytes_of_widths_and_of_a_target():
    sizes = {("lora_A", "4"): 214, ("lora_A", "2"): 114, ("lora_B", "4"): 170, ("lora_B", "2"): 90}
    scores = {("lora_A", "4"): 0.1, ("lora_A", "2"): 0.2, ("lora_B", "4"): 0.1, ("lora_B", "2"): 2.0}
    rows = [
        GroupRow(group=g, bits=b, n_bytes=n, loss_increase=0.0, gradient_change=0.0, cosine=1.0, score=scores[g, b])
        for (g, b), n in sizes.items()
    ]
    grid, federation = Grid(bits=("4", "2"), blocks=(64,)), FederationSpec(quantize=OWN)
    like = candidates(grid, federation, SHAPES)[0]
    found = mixed(rows, grid, federation, SHAPES, like, None)
    assert [(one.quantize.bits, one.quantize.groups) for one in found] == [("4", {"lora_A": "2"})]
    assert found[0].quantize.rounding_seed == "a"
    assert mixed(rows, grid, federation, SHAPES, like, 200) == found
    assert mixed([], grid, federation, SHAPES, like, 200) == ()


def test_masks_are_swept_and_the_rest_of_them_is_the_federations():
    own = FederationSpec(mask=MaskSpec(server=0.1, client=0.25, fresh=True))
    grid = Grid(bits=("3",), blocks=(64,), masks=(0.0, 0.5))
    found = candidates(grid, own, SHAPES)
    assert [one.mask for one in found] == [MaskSpec(server=0.1), MaskSpec(server=0.1, client=0.5, fresh=True)]
    assert [one.mask for one in candidates(Grid(bits=("3",), blocks=(64,)), own, SHAPES)] == [own.mask]
    assert found[1].federation(own).mask == found[1].mask
    assert found[1].label(LoraSpec(rank=4)) == "3 bits, block 64, server's mask 0.1, mask 0.5"


def test_settings_that_rounds_would_refuse_are_named_and_not_alone():
    found = candidates(Grid(bits=("3",), blocks=(64,), masks=(0.0, 0.5), ranks=(4, 2)), FederationSpec(), SHAPES)
    said = {(one.rank, one.mask.client): one.refusal(FederationSpec()) for one in found}
    assert "--combine svd" in said.pop((2, 0.5))
    assert set(said.values()) == {None}
    with pytest.raises(UsageError, match="--combine svd"):
        candidates(Grid(masks=(0.5,), ranks=(2,)), FederationSpec(), SHAPES)
    hidden = FederationSpec(method="fedqsn", quantize=QuantSpec(codebook="symmetric"), mask=MaskSpec(client=0.5))
    found = candidates(Grid(bits=("full", "3"), blocks=(64,)), hidden, SHAPES)
    assert [bool(one.refusal(hidden)) for one in found] == [True, False]
    with pytest.raises(UsageError, match="--bits 8: codebook: symmetric has no 8 bits"):
        candidates(Grid(bits=("8",)), hidden, SHAPES)
