"""Averages of proxies: which windows there are, what both means are, and what averaging gains whom."""

import itertools
import math

import pytest
import torch

from fedlpp_cli.leakage.averaging import compress, mean_factors, mean_products, windows
from fedlpp_cli.leakage.closeness import closeness
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import QuantSpec

SHAPES = {"a.lora_A": (4, 24), "a.lora_B": (20, 4), "b.lora_A": (4, 16), "b.lora_B": (40, 4), "head.weight": (3, 8)}


def adapter(seed, shapes=SHAPES):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def product(values, module):
    return values[f"{module}.lora_B"].double() @ values[f"{module}.lora_A"].double()


@pytest.mark.parametrize("n", range(1, 40))
def test_windows_are_different_means_with_a_sum_of_1(n):
    found = windows(n)
    assert "all" in found
    for name, weights in found.items():
        assert len(weights) == n
        assert sum(weights) == pytest.approx(1)
        assert list(weights) == sorted(weights), name
        assert n == 1 or weights[-1] < 1, name
    for one, other in itertools.combinations(found.values(), 2):
        assert one != other


def test_windows_by_name():
    assert windows(1) == {"all": (1.0,)}
    assert list(windows(2)) == ["all", "EMA 0.9"]
    found = windows(10)
    assert list(found) == ["all", "last half", "EMA 0.9", "last 2", "last 4", "last 8"]
    assert found["last half"] == (0.0,) * 5 + (0.2,) * 5
    assert found["last 4"] == (0.0,) * 6 + (0.25,) * 4
    assert found["EMA 0.9"][-2] / found["EMA 0.9"][-1] == pytest.approx(0.9)
    assert list(windows(8)) == ["all", "last half", "EMA 0.9", "last 2"]  # the last 4 are the last half
    with pytest.raises(ValueError, match="at least one"):
        windows(0)


def test_a_mean_of_factors_is_one_of_every_component():
    snapshots, weights = [adapter(seed) for seed in range(3)], (0.2, 0.3, 0.5)
    found = mean_factors(snapshots, weights)
    for name in SHAPES:
        wanted = sum(weight * values[name].double() for values, weight in zip(snapshots, weights, strict=True))
        assert torch.equal(found[name], wanted.float())


def test_a_mean_of_products_is_exact_and_has_the_sum_of_the_ranks():
    snapshots, weights = [adapter(seed) for seed in range(4)], (0.0, 0.25, 0.25, 0.5)
    found = mean_products(snapshots, weights)
    assert found["a.lora_A"].shape == (12, 24)
    assert found["a.lora_B"].shape == (20, 12)
    for module in ("a", "b"):
        wanted = sum(weight * product(values, module) for values, weight in zip(snapshots, weights, strict=True))
        assert torch.equal(product(found, module).float(), wanted.float())  # halves and quarters are not rounded
    assert torch.equal(found["head.weight"], mean_factors(snapshots, weights)["head.weight"])


def test_products_of_several_ranks_have_a_mean_and_factors_have_none():
    low = {**adapter(1), "a.lora_A": torch.ones(2, 24), "a.lora_B": torch.ones(20, 2)}
    found = mean_products([adapter(0), low], (0.5, 0.5))
    assert found["a.lora_A"].shape == (6, 24)
    assert torch.allclose(product(found, "a"), (product(adapter(0), "a") + product(low, "a")) / 2)
    with pytest.raises(ValueError, match="have no mean"):
        mean_factors([adapter(0), low], (0.5, 0.5))


def test_compressed_to_a_rank_that_holds_the_product_it_is_the_product():
    snapshots = [adapter(seed) for seed in range(2)]
    mean = mean_products([*snapshots, *snapshots], (0.25,) * 4)  # 16 terms of rank 8
    small = compress(mean, 8)
    assert small["a.lora_A"].shape == (8, 24)
    assert small["b.lora_B"].shape == (40, 8)
    assert closeness(small, mean).error_product < 1e-6
    assert torch.equal(small["head.weight"], mean["head.weight"])


def test_compressed_further_it_is_the_best_of_that_rank():
    mean = mean_products([adapter(seed) for seed in range(3)], (1 / 3,) * 3)
    small = compress(mean, 2)
    lost = 0.0
    for module in ("a", "b"):
        left, values, right = torch.linalg.svd(product(mean, module), full_matrices=False)
        best = left[:, :2] @ values[:2].diag() @ right[:2]
        assert torch.allclose(product(small, module), best, atol=1e-5)
        lost += float(values[2:].square().sum())
    whole = sum(float(product(mean, module).square().sum()) for module in ("a", "b"))
    assert closeness(small, mean).error_product == pytest.approx(math.sqrt(lost / whole), rel=1e-5)


def test_to_a_rank_above_that_of_the_product_it_is_filled_up_with_zeros():
    found = compress(adapter(0), 7)
    assert (found["a.lora_A"][4:] == 0).all()
    assert (found["a.lora_B"][:, 4:] == 0).all()
    assert closeness(found, adapter(0)).error_product < 1e-6


def normal(n):
    return torch.randn(n, generator=torch.Generator().manual_seed(11))


def errors_of_means(spec_of, counts, n=2**14):
    """Relative error of the mean of that many proxies of weights that stay."""
    owner = {"a.lora_A": normal(n).reshape(16, -1)}
    snapshots = [
        {name: round_tensor(value, spec_of(number), name=name) for name, value in owner.items()}
        for number in range(max(counts))
    ]
    return [closeness_of(mean_factors(snapshots[:count], (1 / count,) * count), owner) for count in counts]


def closeness_of(found, owner):
    return float((found["a.lora_A"] - owner["a.lora_A"]).norm() / owner["a.lora_A"].norm())


@pytest.mark.parametrize("bits", ["ternary", "2", "3", "4"])
@pytest.mark.parametrize("scale_rounding", ["nearest", "up", "fit"])
def test_of_weights_that_stay_and_nearest_levels_a_mean_tells_what_one_proxy_does(bits, scale_rounding):
    first, *others = errors_of_means(lambda _: QuantSpec(bits=bits, scale_rounding=scale_rounding), (1, 2, 7, 10))
    assert others == [first] * 3


# An earlier measurement: block 256, means of 1, 4, 16 and 64.
EARLIER = {"2": (0.93, 0.47, 0.23, 0.12), "3": (0.31, 0.16, 0.079, 0.039), "4": (0.14, 0.070, 0.035, 0.018)}


@pytest.mark.parametrize("bits", EARLIER)
def test_with_stochastic_rounding_its_error_falls_with_the_root_of_their_number(bits):
    def spec_of(number):
        return QuantSpec(bits=bits, block=256, scale="fp32", rounding="stochastic", rounding_seed=f"s{number}")

    counts = (1, 4, 16, 64)
    found = errors_of_means(spec_of, counts)
    logs = torch.tensor([math.log(count) for count in counts]), torch.tensor([math.log(error) for error in found])
    (x, y) = (values - values.mean() for values in logs)
    slope = float((x * y).sum() / x.square().sum())
    assert -0.52 < slope < -0.48
    assert found == pytest.approx(EARLIER[bits], rel=0.06)
