"""Which tensors a group means, and which of several groups counts."""

import pytest

from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.record import read_record, to_plain
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec
from fedlpp_cli.records.tensor_groups import common_groups, spell_widths, unknown_groups

QUERY = "encoder.layer.1.attention.self.query.lora_B"
OTHER = "encoder.layer.11.attention.self.query.lora_A"


@pytest.mark.parametrize(
    ("groups", "bits"),
    [
        ({}, "3"),
        ({"lora_B": "4"}, "4"),
        ({"lora_A": "4"}, "3"),
        ({"query": "2"}, "2"),
        ({"self.query": "2", "lora_B": "5"}, "2"),
        ({"layer.1": "5", "query": "2"}, "5"),
        ({"layer.11": "5"}, "3"),
        ({"quer": "2", "uery.lora_B": "2", "lora": "2"}, "3"),
        ({"query": "2", "lora_B": "5"}, "5"),
        ({"lora_B": "5", "query": "2"}, "5"),
        ({"layer.1": "5", "query.lora_B": "6"}, "6"),
        ({QUERY: "8", "attention.self.query.lora_B": "2"}, "8"),
    ],
)
def test_the_group_with_the_most_parts_counts_and_then_the_one_that_ends_last(groups, bits):
    spec = QuantSpec(block=32, scale="fp32", groups=groups)
    assert spec.of(QUERY) == QuantSpec(bits=bits, block=32, scale="fp32")


def test_control_variates_are_rounded_as_their_components():
    spec = QuantSpec(groups={QUERY: "5", "lora_A": "2"})
    assert spec.of(f"{QUERY}.control") == spec.of(QUERY) == QuantSpec(bits="5")
    assert spec.of(f"{OTHER}.control") == spec.of(OTHER) == QuantSpec(bits="2")


def test_a_tensor_in_full_precision_has_no_rounding_and_its_neighbours_keep_theirs():
    spec = QuantSpec(rounding="stochastic", rounding_seed="a", scale_rounding="up", groups={"lora_A": "full"})
    assert spec.of(OTHER) == FULL_PRECISION
    assert spec.of(QUERY).rounding == "stochastic"
    assert spec.is_rounded
    assert QuantSpec(bits="full", groups={"lora_B": "4"}).is_rounded
    with pytest.raises(ValueError, match="full precision is not rounded"):
        QuantSpec(bits="full", rounding="stochastic", rounding_seed="a", groups={"lora_A": "full"})


def test_groups_that_nothing_is_in_are_found_and_others_named():
    assert unknown_groups(["lora_B", "layer.2", "query.lora_A", "value"], [QUERY, OTHER]) == ["layer.2", "value"]
    assert common_groups([QUERY, OTHER, "classifier.weight"]) == [
        "classifier", "classifier.weight", "lora_A", "lora_B", "query", "query.lora_A", "query.lora_B", "weight",
    ]  # fmt: skip
    assert spell_widths("ternary", {"lora_B": "4", "classifier": "full"}) == (
        "ternary, classifier full precision, lora_B 4 bits"
    )


@pytest.mark.parametrize("groups", [{"lora_B": "7"}, {"lora*": "4"}, {".lora_B": "4"}, {"": "4"}, {"a" * 257: "4"}])
def test_names_are_literal_and_widths_are_those_there_are(groups):
    with pytest.raises(ArtifactError):
        read_record({"groups": groups}, QuantSpec, source="x", error=ArtifactError)


def test_a_record_without_groups_is_still_read():
    plain = to_plain(QuantSpec())
    del plain["groups"]
    assert read_record(plain, QuantSpec, source="x", error=ArtifactError) == QuantSpec()
    too_many = {f"m{number}": "4" for number in range(257)}
    with pytest.raises(ArtifactError, match="groups"):
        read_record({"groups": too_many}, QuantSpec, source="x", error=ArtifactError)


def test_equal_roundings_are_one_in_a_set():
    one, other = (QuantSpec(groups=dict(pairs)) for pairs in ([("a", "2"), ("b", "4")], [("b", "4"), ("a", "2")]))
    assert len({one, other, QuantSpec(), QuantSpec(groups={"a": "2"})}) == 3
