"""Records: rules between fields, choices, and messages that say what to write instead."""

import pytest

from fedlpp_cli.errors import InputError, SettingsError
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.record import choices_of, read_record, to_plain
from fedlpp_cli.records.settings import SECTIONS
from fedlpp_cli.records.specs import AggregateSpec, EvaluateSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec


def read(record, /, **raw):
    return read_record(raw, record, source="here", error=SettingsError)


@pytest.mark.parametrize("kind", [kind for kind in SECTIONS.values() if kind not in (TrainSpec, PrivacySpec)])
def test_the_defaults_are_within_their_own_bounds(kind):
    assert read(kind, **to_plain(kind())) == kind() == read(kind)


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (TaskSpec, {"kind": "seq-cls"}, "labels: seq-cls needs at least two, found 0"),
        (TaskSpec, {"kind": "seq-cls", "labels": ["a"]}, "labels: seq-cls needs at least two, found 1"),
        (TaskSpec, {"kind": "seq-cls", "labels": ["a", "b", "a"]}, "labels: a name stands twice"),
        (TaskSpec, {"labels": ["a", "b"]}, "labels: causal-lm has none"),
        (TrainSpec, {}, "steps, epochs: set one of them"),
        (TrainSpec, {"steps": 1, "epochs": 1.0}, "steps, epochs: set one of them"),
        (TrainSpec, {"steps": 1, "momentum": 0.9}, "momentum: goes with optimizer sgd, not adamw"),
        (AggregateSpec, {"update_rule": 4}, "n_rounds: update rule 4 decays"),
    ],
)
def test_a_rule_between_fields_is_kept(kind, raw, message):
    with pytest.raises(SettingsError, match=f"^here: {message}"):
        read(kind, **raw)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (TaskSpec, {"kind": "seq-cls", "labels": ["a", "b"]}),
        (TrainSpec, {"steps": 1}),
        (TrainSpec, {"epochs": 1}),
        (TrainSpec, {"epochs": 0.5, "optimizer": "sgd", "momentum": 0.9}),
        (AggregateSpec, {"update_rule": 4, "n_rounds": 1}),
        (AggregateSpec, {"update_rule": 3}),
    ],
)
def test_what_goes_together_is_read(kind, raw):
    found = to_plain(read(kind, **raw))
    assert {name: list(found[name]) if isinstance(found[name], tuple) else found[name] for name in raw} == raw


@pytest.mark.parametrize(
    ("kind", "field", "value", "choices"),
    [
        (QuantSpec, "bits", "7", "ternary, 2, 3, 4, 5, 6, 8, full"),
        (QuantSpec, "bits", 3, "ternary, 2, 3, 4, 5, 6, 8, full"),
        (QuantSpec, "scale", "fp8", "fp32, fp16, double"),
        (TaskSpec, "kind", "lm", "causal-lm, seq-cls"),
        (AggregateSpec, "update_rule", 5, "1, 2, 3, 4"),
        (AggregateSpec, "weighting", "size", "examples, equal, product-norm"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(kind, field, value, choices):
    with pytest.raises(SettingsError, match=f"^here: {field}: .*; choose from {choices}$"):
        read(kind, **{field: value})


def test_only_a_literal_has_choices():
    assert choices_of(QuantSpec, "scale") == ("fp32", "fp16", "double")
    assert choices_of(AggregateSpec, "update_rule") == ("1", "2", "3", "4")
    assert choices_of(QuantSpec, "block") == choices_of(QuantSpec, "nothing") == ()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("kind", "field", "others"),
    [
        (LoraSpec, "alpha", {}),
        (LoraSpec, "dropout", {}),
        (TrainSpec, "epochs", {}),
        (TrainSpec, "learning_rate", {"steps": 1}),
        (TrainSpec, "max_grad_norm", {"steps": 1}),
        (TrainSpec, "max_update_norm", {"steps": 1}),
        (AggregateSpec, "server_learning_rate", {}),
    ],
)
def test_a_number_that_no_artifact_could_hold_is_refused(kind, field, others, value):
    with pytest.raises(SettingsError, match=rf"^here: {field}: "):
        read(kind, **others, **{field: value})


def test_the_error_is_of_the_class_that_was_asked_for():
    with pytest.raises(InputError) as caught:
        read_record({"rank": 0}, LoraSpec, source="a.json", error=InputError)
    assert type(caught.value) is InputError
    assert str(caught.value) == "a.json: rank: Expected `int` >= 1"


def test_an_unknown_field_is_answered_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"^here: unknown field 'lr'; known here: batch_size, generate, limit, "):
        read(EvaluateSpec, lr=1)


@pytest.mark.parametrize(
    ("raw", "scaling"),
    [({}, 2.0), ({"rank": 16, "alpha": 8.0}, 0.5), ({"rank": 16, "alpha": 8.0, "use_rslora": True}, 2.0)],
)
def test_the_scaling_is_as_lora_defines_it(raw, scaling):
    assert read(LoraSpec, **raw).scaling == scaling
