"""Updates of a lower rank, filled up window by window, are what the whole tensors give."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.updates import write_update

from fedlpp_cli.adapters.padding import read_padded
from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.adapters.ranks import shapes_of_rank
from fedlpp_cli.adapters.windows import WINDOW_UNIT
from fedlpp_cli.aggregation.measures import Folding
from fedlpp_cli.aggregation.rules import Plan
from fedlpp_cli.aggregation.stack import Stack
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec

ROUNDINGS = (
    FULL_PRECISION,
    QuantSpec(bits="3", block=48),
    QuantSpec(bits="ternary", scale="double"),
    QuantSpec(bits="8"),
    QuantSpec(bits="2", block=48, codebook="symmetric"),
    QuantSpec(bits="5", scale_rounding="fit", codebook="symmetric"),
)


def filled(update, name, own, shape):
    whole = np.zeros(shape, np.float32)
    whole[tuple(slice(size) for size in own)] = read_update(update, name, own).numpy()
    return whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data(), rounding=st.sampled_from(ROUNDINGS), compiled=st.booleans())
def test_a_window_of_a_filled_up_component_is_that_of_the_whole(tmp_path, data, rounding, compiled):
    full = data.draw(st.integers(1, 9), label="rank")
    rank = data.draw(st.integers(1, full), label="own rank")
    shapes = {"m.lora_A": (full, data.draw(st.integers(1, 400))), "m.lora_B": (data.draw(st.integers(1, 400)), full)}
    own = shapes_of_rank(shapes, rank)
    numbers = np.random.default_rng(1)
    values = {name: numbers.normal(size=shape).astype(np.float32) for name, shape in own.items()}
    path = tmp_path / "u"
    path.unlink(missing_ok=True)
    write_update(path, values, client="c", quantize=rounding)
    with TensorFile(path, UpdateHeader) as update:
        for name, shape in shapes.items():
            expected, n_values = filled(update, name, own[name], shape).reshape(-1), shape[0] * shape[1]
            start = data.draw(st.integers(0, (n_values - 1) // WINDOW_UNIT)) * WINDOW_UNIT
            stop = min(n_values, start + data.draw(st.integers(1, 4)) * WINDOW_UNIT)
            out = np.full(stop - start, np.nan, np.float32)
            read_padded(update, name, (own[name], shape), start, out, compiled=compiled)
            np.testing.assert_array_equal(out, expected[start:stop])


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_fold_of_several_ranks_is_that_of_filled_up_updates(tmp_path, rounding):
    """To the byte: nobody needs to write larger files."""
    shapes = {"m.lora_A": (8, 700), "m.lora_B": (900, 8), "head.bias": (5,)}
    numbers, opened, bigger, own_shapes = np.random.default_rng(0), [], [], []
    for number, rank in enumerate((8, 3, 1, 3)):
        own = shapes_of_rank(shapes, rank)
        values = {name: numbers.normal(size=shape).astype(np.float32) for name, shape in own.items()}
        path = write_update(tmp_path / f"{number}", values, client=f"c{number}", quantize=rounding)
        opened.append(TensorFile(path, UpdateHeader))
        own_shapes.append(own)
        whole = {name: filled(opened[-1], name, own[name], shape) for name, shape in shapes.items()}
        bigger.append(TensorFile(write_update(tmp_path / f"{number}w", whole, client=f"c{number}"), UpdateHeader))
    factors = [1.0, 0.5, 1.0, 0.25]
    for plan in (Plan((0.1, 0.2, 0.3, 0.4)), Plan((0.25,) * 4, trimmed=1)):
        results = []
        for stack in (
            Stack(opened, shapes, threads=1, own_shapes=own_shapes),
            Stack(opened, shapes, threads=2, own_shapes=own_shapes),
            Stack(bigger, shapes, threads=1),
        ):
            folding = Folding(stack, factors, plan)
            values = {name: torch.from_numpy(value.copy()) for name, value in folding.results(shapes)}
            results.append((values, folding.products.tolist(), folding.squares))
        for values, products, squares in results[1:]:
            assert all(torch.equal(values[name], results[0][0][name]) for name in shapes)
            assert (products, squares) == results[0][1:]
