"""Levels against the values of the FedLPP paper's formula, worked out apart from this code."""

import hashlib

import pytest
import torch

from fedlpp_cli.quantization.codebooks import dynamic_map, levels, midpoints

GOLDEN = {
    "ternary": [-1, 0, 1],
    "2": [-1, 0, 0.337915, 1],
    "3": [-1, -0.478629, -0.217142, 0, 0.160930, 0.337915, 0.562617, 1],
    "4": [
        -1, -0.696193, -0.525073, -0.394917, -0.284441, -0.184773, -0.091050, 0,
        0.079580, 0.160930, 0.246112, 0.337915, 0.440710, 0.562617, 0.722957, 1,
    ],
    "symmetric-2": [-1, -0.337915, 0, 0.337915, 1],
    "symmetric-3": [-1, -0.562617, -0.337915, -0.160930, 0, 0.160930, 0.337915, 0.562617, 1],
}  # fmt: skip
# The float32 bytes of every table: a change of any bit changes what every proxy means.
DIGESTS = {
    "ternary": "67a7b97c31d4b3c9",
    "2": "9deecb875bd42dde",
    "3": "84c70deca5f9647d",
    "4": "8501941daa1b8a90",
    "5": "e7c4a33a40dad63b",
    "6": "699e74a0cda562f3",
    "8": "a6f58847fa8eb01f",
    "symmetric-2": "0fb718b25d40cdbf",
    "symmetric-3": "651add6f37395fdc",
    "symmetric-4": "47feb02807bdf9fb",
    "symmetric-5": "c00a112325703b27",
    "symmetric-6": "de8c35aa1dca5cfc",
}


@pytest.mark.parametrize("bits", GOLDEN)
def test_levels_are_the_golden_values(bits):
    assert torch.allclose(levels(bits), torch.tensor(GOLDEN[bits], dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize("bits", DIGESTS)
def test_level_tables_never_change_a_bit(bits):
    assert hashlib.sha256(levels(bits).numpy().tobytes()).hexdigest()[:16] == DIGESTS[bits]


@pytest.mark.parametrize("bits", ["2", "3", "4", "5", "6", "8"])
def test_nf_tables_have_every_code_with_one_positive_level_more_than_negative(bits):
    table = levels(bits)
    assert len(table) == 2 ** int(bits)
    assert (table > 0).sum() == (table < 0).sum() + 1
    assert (table.diff() > 0).all()
    assert table[0] == -1
    assert table[-1] == 1
    assert (table == 0).sum() == 1


def test_full_precision_has_no_levels():
    with pytest.raises(ValueError, match="no levels"):
        levels("full")


def test_dynamic_map_has_256_levels_around_zero():
    table = dynamic_map()
    assert len(table) == 256
    assert (table.diff() > 0).all()
    assert table[-1] == 1
    assert 0 in table.tolist()


def test_midpoints_lie_between_neighbours():
    table = levels("3")
    assert (midpoints(table) > table[:-1]).all()
    assert (midpoints(table) < table[1:]).all()
