"""FedQSN's codebook: levels, sizes and bytes worked out apart from this code."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.errors import SettingsError
from fedlpp_cli.quantization.codebooks import levels
from fedlpp_cli.quantization.layout import DIGIT_GROUPS, packed_bytes, table_of
from fedlpp_cli.quantization.packing import pack, unpack
from fedlpp_cli.quantization.tensors import quantize_tensor, round_tensor
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import QuantSpec

BITS_A_CODE = {"symmetric-2": 2.4, "symmetric-3": 3.2, "symmetric-4": 4.8, "symmetric-5": 5.6, "symmetric-6": 6.4}


def symmetric(bits, **more):
    return QuantSpec(bits=bits, codebook="symmetric", **more)


@pytest.mark.parametrize("table", DIGIT_GROUPS)
def test_levels_mirror_and_sizes_are_as_documented(table):
    found = levels(table)
    assert len(found) == 2 ** int(table[-1]) + 1
    assert torch.equal(found, -found.flip(0))
    assert set(levels(table[-1])[levels(table[-1]) > 0].tolist()) == set(found[found > 0].tolist())
    assert 8 * packed_bytes(32000, table) / 32000 == BITS_A_CODE[table]
    per_group, n_bytes = DIGIT_GROUPS[table]
    assert 320 % per_group == 0
    assert len(found) ** per_group <= 256**n_bytes <= 2**62


def test_ten_codes_are_one_number_in_three_bytes():
    codes = [4, 3, 2, 1, 0, 0, 1, 2, 3, 4]
    number = 0
    for code in codes:
        number = 5 * number + code
    packed = pack(torch.tensor(codes, dtype=torch.uint8), "symmetric-2")
    assert bytes(packed.tolist()) == number.to_bytes(3, "big")
    assert unpack(packed, 10, "symmetric-2").tolist() == codes
    with pytest.raises(ValueError, match="behind the last"):
        unpack(packed, 9, "symmetric-2")
    with pytest.raises(ValueError, match="hold no 10 codes of 5"):
        unpack(torch.tensor([255, 255, 255], dtype=torch.uint8), 10, "symmetric-2")


def test_values_go_to_the_nearest_level_on_both_sides_and_ties_down():
    x = torch.tensor([1.0, 0.6, 0.2, 0.1, -0.1, -0.2, -0.6, -1.0, 0.0])
    found = round_tensor(x, symmetric("2", block=16, scale="fp32"), name="x")
    inner = levels("symmetric-2")[3].item()
    assert found.tolist() == [1.0, inner, inner, 0.0, 0.0, -inner, -inner, -1.0, 0.0]
    halfway = torch.tensor([1.0, inner / 2, -inner / 2])
    assert round_tensor(halfway, symmetric("2", block=16, scale="fp32"), name="x").tolist() == [1.0, 0.0, -inner]


@pytest.mark.parametrize("bits", ["2", "3"])
def test_it_loses_less_than_nf_of_that_many_bits(bits):
    """Against the definition in numpy, level by level."""
    x = np.random.default_rng(0).standard_normal(2**14).astype(np.float32)
    table = levels(f"symmetric-{bits}").double().numpy()
    scales = np.abs(x.reshape(-1, 64)).max(1).repeat(64).astype(np.float64)
    defined = table[np.abs(x[:, None] / scales[:, None] - table).argmin(1)] * scales
    found = round_tensor(torch.from_numpy(x), symmetric(bits, scale="fp32"), name="x").numpy()
    assert np.abs(found - defined).max() < 1e-6
    relative = np.linalg.norm(found - x) / np.linalg.norm(x)
    nf = round_tensor(torch.from_numpy(x), QuantSpec(bits=bits, scale="fp32"), name="x").numpy()
    assert relative < np.linalg.norm(nf - x) / np.linalg.norm(x)


@pytest.mark.parametrize("options", [{}, {"scale": "double"}, {"scale_rounding": "fit"}, {"scale_rounding": "up"},
                                     {"rounding": "stochastic", "rounding_seed": "a"}])  # fmt: skip
def test_large_tensors_take_the_reference_path_with_every_scale(options):
    x = torch.randn(2**18 + 7, generator=torch.Generator().manual_seed(1))
    spec = symmetric("3", **options)
    parts = quantize_tensor(x, spec, name="x")
    assert len(parts["codes"]) == packed_bytes(len(x), table_of(spec))
    assert ((round_tensor(x, spec, name="x") - x).norm() / x.norm()).item() < 0.4


def test_groups_and_settings_know_it(tmp_path):
    spec = symmetric("2", groups={"lora_B": "ternary"})
    assert table_of(spec.of("a.lora_A")) == "symmetric-2"
    assert table_of(spec.of("a.lora_B")) == "ternary"
    sizes = [layout_bytes(proxy_layout({"a.lora_A": (4, 160)}, one)) for one in (spec, replace(spec, codebook="nf"))]
    assert sizes == [640 * 3 // 10 + 20, 640 // 4 + 20]
    file = tmp_path / "federation.toml"
    file.write_text('[quantize]\nbits = "8"\ncodebook = "symmetric"\n')
    with pytest.raises(SettingsError, match="symmetric has no 8 bits"):
        read_settings(file).resolve(QuantSpec)
    assert read_settings(file).resolve(QuantSpec, bits="3").codebook == "symmetric"
