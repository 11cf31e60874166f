"""A proxy with several widths is nothing but its components, each rounded alone."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounds import first_round

from fedlpp_cli import inspect, quantize
from fedlpp_cli.adapters.proxy_tensors import check_proxy, read_component
from fedlpp_cli.adapters.windows import WINDOW_UNIT, read_values, read_window
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import QuantSpec

SHAPES = {
    "layers.0.q.lora_A": (4, 200), "layers.0.q.lora_B": (130, 4), "layers.1.q.lora_A": (4, 200),
    "layers.1.q.lora_B": (130, 4), "head.weight": (3, 7),
}  # fmt: skip
WIDTHS = st.sampled_from(["ternary", "2", "3", "4", "5", "6", "8", "full"])
GROUPS = st.dictionaries(
    st.sampled_from(["lora_A", "lora_B", "q", "layers.0", "layers.1", "q.lora_B", "head", *SHAPES]), WIDTHS
)


@st.composite
def specs(draw):
    bits, groups = draw(WIDTHS), draw(GROUPS)
    rounding = draw(st.sampled_from(["nearest", "up", "fit", "stochastic"]))
    if {bits, *groups.values()} == {"full"}:
        rounding = "nearest"
    drawn = (
        {"rounding": "stochastic", "rounding_seed": "a"} if rounding == "stochastic" else {"scale_rounding": rounding}
    )
    return QuantSpec(
        bits=bits, groups=groups, block=draw(st.sampled_from([1, 7, 64, 128])),
        scale=draw(st.sampled_from(["fp32", "fp16", "double"])), **drawn,
    )  # fmt: skip


@given(specs(), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_each_component_is_rounded_as_if_it_were_alone(spec, rank):
    draw = np.random.default_rng(0)
    theta = {name: draw.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    with tempfile.TemporaryDirectory() as folder:
        master = first_round(Path(folder), theta).master
        quantize(master, out=Path(folder) / "proxy", spec=spec)
        with TensorFile(Path(folder) / "proxy", ProxyHeader) as proxy:
            check_proxy(proxy)
            for name, value in theta.items():
                alone = quantize_tensor(torch.from_numpy(value), spec.of(name), name=name)
                for part, tensor in alone.items():
                    found = proxy.read(f"{name}.{part}" if part else name)
                    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                    assert found.numpy().tobytes() == tensor.numpy().tobytes()
            assert len(proxy.tensors) == sum(len(quantize_tensor(torch.zeros(1), spec.of(n), name=n)) for n in theta)
            _check_windows(proxy)
        told = inspect(Path(folder) / "proxy")
        assert sum(group.n_bytes for group in told.groups) == sum(one.n_bytes for one in told.tensors)
        quantize(master, out=Path(folder) / "cut", spec=spec, rank=rank)
        with TensorFile(Path(folder) / "cut", ProxyHeader) as cut:
            check_proxy(cut)


def _check_windows(proxy):
    for name, shape in SHAPES.items():
        whole = read_component(proxy, name).numpy()
        for compiled in (True, False):
            assert read_values(proxy, name, shape, compiled=compiled).tobytes() == whole.tobytes()
            if whole.size > WINDOW_UNIT:
                out = np.empty(whole.size - WINDOW_UNIT, np.float32)
                read_window(proxy, name, WINDOW_UNIT, out, compiled=compiled)
                assert out.tobytes() == whole.reshape(-1)[WINDOW_UNIT:].tobytes()
