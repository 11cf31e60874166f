"""Distances between adapters, against the same with `B A` formed."""

import math

import pytest
import torch

from fedlpp_cli.leakage.averaging import mean_products
from fedlpp_cli.leakage.closeness import closeness
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import QuantSpec

SHAPES = {"a.lora_A": (4, 24), "a.lora_B": (20, 4), "b.lora_A": (4, 128), "b.lora_B": (128, 4), "head.bias": (5,)}


def adapter(seed, shapes=SHAPES):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def products(values):
    return torch.cat(
        [
            (values[f"{module}.lora_B"].double() @ values[f"{module}.lora_A"].double()).reshape(-1)
            for module in ("a", "b")
        ]
    )


def factors(values, factor):
    return torch.cat([values[f"{module}.{factor}"].double().reshape(-1) for module in ("a", "b")])


def test_errors_and_cosine_are_those_of_all_layers_as_one_vector():
    found, owner = adapter(0), adapter(1)
    near = {name: owner[name] + 0.1 * found[name] for name in SHAPES}
    for attacker in (found, near):
        result = closeness(attacker, owner)
        x, y = products(attacker), products(owner)
        assert result.error_product == pytest.approx(float((x - y).norm() / y.norm()))
        assert result.cosine_product == pytest.approx(float(x @ y / (x.norm() * y.norm())))
        assert result.snr_db == pytest.approx(10 * math.log10(float(y.square().sum() / (x - y).square().sum())))
        for factor, error in (("lora_A", result.error_a), ("lora_B", result.error_b)):
            x, y = factors(attacker, factor), factors(owner, factor)
            assert error == pytest.approx(float((x - y).norm() / y.norm()))


def test_the_owner_s_own_adapter_is_at_no_distance():
    result = closeness(adapter(0), adapter(0))
    assert (result.error_a, result.error_b, result.revealed) == (0.0, 0.0, 1.0)
    assert result.error_product < 1e-14
    assert result.cosine_product == pytest.approx(1)


def test_an_error_far_below_that_of_gram_matrices_is_seen():
    owner = adapter(0)
    near = {**owner, "a.lora_B": owner["a.lora_B"].double() * (1 + 1e-11)}
    share = float(products(owner)[: 20 * 24].norm() / products(owner).norm())
    assert closeness(near, owner).error_product == pytest.approx(1e-11 * share, rel=1e-3)


def test_other_factors_of_the_same_product_are_the_same_adapter():
    owner, turn = adapter(0), torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(9))).Q
    turned = {
        **owner,
        **{f"{module}.lora_B": owner[f"{module}.lora_B"] @ turn for module in ("a", "b")},
        **{f"{module}.lora_A": turn.T @ owner[f"{module}.lora_A"] for module in ("a", "b")},
    }
    result = closeness(turned, owner)
    assert result.error_product < 1e-6
    assert result.error_a > 0.5
    assert result.revealed == 5 / sum(value.numel() for value in owner.values())  # the bias


def test_adapters_of_another_rank_are_compared_by_products_alone():
    owner = adapter(0)
    result = closeness(mean_products([owner, owner], (0.5, 0.5)), owner)
    assert result.error_product < 1e-6
    assert (result.error_a, result.error_b, result.revealed) == (None, None, None)


def test_beside_an_adapter_of_zero_there_is_no_relative_error():
    fresh = {**adapter(0), "a.lora_B": torch.zeros(20, 4), "b.lora_B": torch.zeros(128, 4)}
    result = closeness(adapter(0), fresh)
    assert (result.error_b, result.error_product, result.cosine_product, result.snr_db) == (None,) * 4
    assert result.error_a == 0.0


def test_other_components_are_refused():
    with pytest.raises(ValueError, match=r"head\.bias"):
        closeness({name: value for name, value in adapter(0).items() if name != "head.bias"}, adapter(0))


@pytest.mark.parametrize("bits", ["ternary", "2", "4"])
@pytest.mark.parametrize("block", [16, 64])
def test_a_proxy_reveals_the_largest_weight_of_each_block(bits, block):
    owner = adapter(3, {"a.lora_A": (16, 64), "a.lora_B": (128, 16)})

    def revealed(scale, tolerance, scale_rounding="nearest"):
        spec = QuantSpec(bits=bits, block=block, scale=scale, scale_rounding=scale_rounding)
        proxy = {name: round_tensor(value, spec, name=name) for name, value in owner.items()}
        return closeness(proxy, owner, tolerance=tolerance).revealed

    assert revealed("fp32", 0.0) == 1 / block
    assert revealed("fp16", 0.0) < 0.1 / block
    assert 1 / block <= revealed("fp16", 2.0**-11) < 1.2 / block
    assert revealed("fp32", 0.0, "up") < 0.1 / block
