"""The four update rules, as formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.aggregation.update_rules import decay, next_value
from fedlpp_cli.records.specs import AggregateSpec

THETA, PROXY, MEAN = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 0.8, 0.1))
numbers = st.floats(-10, 10)


def result(rule, rate=0.5, t=1, n_rounds=4):
    spec = AggregateSpec(update_rule=rule, server_learning_rate=rate, n_rounds=n_rounds)
    return next_value(THETA, PROXY, MEAN, spec, round_number=t).item()


def test_each_rule_on_a_case_worked_out_by_hand():
    assert result(1) == pytest.approx(1.0 + 0.5 * 0.1)
    assert result(2) == pytest.approx(0.8 + 0.5 * 0.1)
    assert result(3) == pytest.approx(1.0 + 0.5 * (0.8 + 0.1 - 1.0))
    assert result(4) == pytest.approx(1.0 + 0.5 * 0.75 * (0.8 + 0.1 - 1.0))


@given(numbers, numbers, numbers)
def test_rules_2_and_3_agree_at_rate_1(theta, proxy, mean):
    x = [torch.tensor([value], dtype=torch.float64) for value in (theta, proxy, mean)]
    two, three = (
        next_value(*x, AggregateSpec(update_rule=rule, server_learning_rate=1.0), round_number=0) for rule in (2, 3)
    )
    assert torch.allclose(two, three, atol=1e-12)


@given(numbers, numbers, st.floats(0.01, 2))
def test_with_full_precision_proxies_rules_1_2_and_3_are_one(theta, mean, rate):
    x = torch.tensor([theta], dtype=torch.float64)
    d = torch.tensor([mean], dtype=torch.float64)
    specs = [AggregateSpec(update_rule=rule, server_learning_rate=rate) for rule in (1, 2, 3)]
    one, two, three = (next_value(x, x, d, spec, round_number=0) for spec in specs)
    assert torch.allclose(one, two)
    assert torch.allclose(one, three)


def test_rule_4_starts_as_rule_3_and_decays_to_one_part():
    assert result(4, t=0) == pytest.approx(result(3))
    spec = AggregateSpec(update_rule=4, n_rounds=4)
    assert [decay(spec, round_number=t) for t in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_rule_4_ends_with_the_planned_rounds():
    with pytest.raises(ValueError, match="round 4 of 4 planned"):
        result(4, t=4)
    with pytest.raises(ValueError, match="n_rounds"):
        AggregateSpec(update_rule=4)


def test_arguments_are_left_alone():
    before = [tensor.clone() for tensor in (THETA, PROXY, MEAN)]
    for rule in (1, 2, 3, 4):
        result(rule)
    assert all(torch.equal(a, b) for a, b in zip(before, (THETA, PROXY, MEAN), strict=True))
