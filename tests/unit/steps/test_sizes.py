"""Sizes and errors by groups of tensors: what a dry run promises is what is then written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parties import Federation

from fedlpp_cli import inspect, quantize
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.artifact.tensor_header import read_infos
from fedlpp_cli.errors import UsageError
from fedlpp_cli.quantization.expected_error import expected_base_error, expected_error
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec

SPECS = [
    QuantSpec(bits="ternary", scale="double"),
    QuantSpec(bits="2", block=16),
    QuantSpec(bits="4", block=128, scale="fp32"),
    QuantSpec(bits="8", block=32, scale_rounding="up"),
    QuantSpec(bits="3", rounding="stochastic", rounding_seed="a"),
]


@pytest.fixture(scope="module")
def owner(tmp_path_factory, llama):
    federation = Federation(tmp_path_factory.mktemp("sizes"), llama, private_base=True)
    federation.init()
    return federation


@pytest.mark.parametrize("spec", [*SPECS, QuantSpec(bits="full")], ids=lambda spec: f"{spec.bits}-{spec.block}")
@pytest.mark.parametrize("name", ["nf4", "int8", "nf3"])
def test_a_dry_run_says_what_will_be_written(owner, tmp_path, spec, name):
    told = {
        "spec": spec, "base": owner.base, "base_out": tmp_path / "base", "base_spec": BaseQuantSpec(format=name),
    }  # fmt: skip
    dry = quantize(owner.master(0), out=tmp_path / "proxy", dry_run=True, **told)
    assert not list(tmp_path.iterdir())
    made = quantize(owner.master(0), out=tmp_path / "proxy", **told)
    plain = [(group.part, group.group, group.n_tensors, group.n_parameters, group.n_bytes) for group in dry.groups]
    assert plain == [(one.part, one.group, one.n_tensors, one.n_parameters, one.n_bytes) for one in made.groups]
    infos = read_infos(tmp_path / "proxy")
    assert dry.n_bytes == sum(info.n_bytes for info in infos.values())
    found = inspect(tmp_path / "base")
    assert [group for group in made.groups if group.part == "base"] == list(found.groups)
    assert [group for group in made.groups if group.part == "adapter"] == list(inspect(tmp_path / "proxy").groups)
    if name == "nf3":
        weights = read_infos(tmp_path / "base" / "packed.safetensors")
        assert sum(group.n_bytes for group in found.groups) == sum(info.n_bytes for info in weights.values())


def test_the_measured_error_is_that_of_the_weights(owner, tmp_path):
    spec = QuantSpec(bits="2", block=32)
    dry = quantize(owner.master(0), out=tmp_path / "p", base_out=tmp_path / "b", spec=spec, dry_run=True)
    with TensorFile(owner.master(0), MasterHeader) as master:
        names = [name for name in master.tensors if name.endswith("q_proj.lora_A")]
        values = torch.cat([master.read(name).reshape(-1) for name in names])
        rounded = torch.cat([round_tensor(master.read(name), spec, name=name).reshape(-1) for name in names])
    group = next(group for group in dry.groups if group.group == "q_proj.lora_A")
    assert group.n_tensors == len(names)
    assert group.measured_error == pytest.approx(((rounded - values).norm() / values.norm()).item(), rel=1e-5)
    assert next(group for group in dry.groups if group.group == "q_proj.lora_B").measured_error == 0  # zeros


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.bits)
def test_the_expected_error_is_that_of_normal_weights(spec):
    values = torch.randn(2**17, generator=torch.Generator().manual_seed(1))
    rounded = round_tensor(values, spec, name="x")
    assert ((rounded - values).norm() / values.norm()).item() == pytest.approx(expected_error(spec, 2**17), rel=0.03)


@given(st.sampled_from(["ternary", "nf2", "nf3", "nf4", "nf5", "nf6", "fp4", "int8"]), st.integers(1, 3000))
@settings(deadline=None)
def test_any_weight_has_an_expected_error_below_one(name, n_values):
    assert 0 <= expected_base_error(BaseQuantSpec(format=name), n_values, n_values) < 1


def test_a_block_larger_than_every_tensor_is_refused(owner, tmp_path):
    with pytest.raises(UsageError, match="--block 4096 is larger than every tensor of the adapter, of 128 weights"):
        quantize(owner.master(0), out=tmp_path / "p", base_out=tmp_path / "b", spec=QuantSpec(block=4096))
