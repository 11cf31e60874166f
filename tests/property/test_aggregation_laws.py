"""Rules give what their definitions say, whatever the order of files, the windows and the threads."""

import tempfile
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.updates import defined, run_rule, write_rows, write_update

from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.adapters.windows import WINDOW_UNIT, read_window
from fedlpp_cli.aggregation import kernels, reference, stack
from fedlpp_cli.aggregation.network import exchanges, merges
from fedlpp_cli.aggregation.products import Product
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import GateError
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec

SEEDS = st.integers(0, 2**32)
SPECS = {
    "mean": {},
    "median": {},
    "trimmed-mean": {"n_malicious": 2},
    "krum": {"n_malicious": 2},
    "multi-krum": {"n_malicious": 2},
    "bulyan": {"n_malicious": 1},
    "geometric-median": {"n_malicious": 3},
    "centered-clipping": {},
    "fltrust": {},
}
N_CLIENTS = 7


def spec_of(rule, **more):
    return AggregateSpec(rule=rule, **SPECS[rule], **more)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@contextmanager
def opened(rows, **options):
    with tempfile.TemporaryDirectory() as folder, ExitStack() as files:
        yield [files.enter_context(update) for update in write_rows(Path(folder), rows, **options)]


@contextmanager
def setting(module, **values):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        yield


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20_000), SEEDS, st.sampled_from([np.float32, np.float64]))
def test_kernels_give_the_bytes_of_the_reference(n_clients, n, seed, dtype):
    rows = draw(seed, n_clients, n).astype(dtype)
    weights, factors = draw(seed + 1, 2, n_clients).astype(np.float64)
    weights[seed % n_clients] = 0
    low = seed % n_clients
    high = n_clients - 1 - (n_clients - 1 - low) // 2
    found = {}
    for loops in (kernels, reference):
        total, middle, pairs, to = np.empty(n), np.empty(n), np.empty((n_clients, n_clients)), np.empty(n_clients)
        loops.add_weighted(rows, weights, total)
        loops.pair_distances(rows, factors, pairs)
        loops.distances_to(rows, factors, total, to)
        loops.mean_of_sorted(rows, merges(n_clients, low, high), low, high, middle)
        found[loops] = [total, middle, pairs, to, np.array(loops.sum_products(rows[0], total))]
    for ours, theirs in zip(found[kernels], found[reference], strict=True):
        assert np.array_equal(ours, theirs)


@given(st.integers(1, 40), SEEDS)
def test_the_network_sorts(n_rows, seed):
    column = draw(seed, n_rows).tolist()
    for low, high in ((0, n_rows - 1), ((n_rows - 1) // 2, n_rows // 2)):
        row = list(column)
        for i, j in exchanges(n_rows, low, high):
            row[i], row[j] = min(row[i], row[j]), max(row[i], row[j])
        assert row[low : high + 1] == sorted(column)[low : high + 1]


@pytest.mark.parametrize("rule", SPECS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 1500), clip=st.sampled_from([{}, {"clip_norm": 1.5}, {"clip_to_median": True}]))
def test_each_rule_is_what_its_definition_says(rule, seed, n, clip):
    rows = draw(seed, N_CLIENTS + 1, n) + 0.3 * draw(seed + 1, n)
    rows[1] *= -10
    spec = spec_of(rule, **clip)
    expected = defined(rows[:N_CLIENTS], spec, np.full(N_CLIENTS, 1 / N_CLIENTS), rows[-1])
    with opened(rows) as (*updates, last):
        own = last if rule == "fltrust" else None
        if not np.isfinite(expected).all():
            with pytest.raises(GateError, match="no update goes in the direction"):
                run_rule(updates, spec, reference=own)
            return
        found = run_rule(updates, spec, reference=own)
    scale = np.abs(rows).max()
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("rule", ["mean", "geometric-median", "centered-clipping"])
@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_weights_reach_the_rules_that_have_them(rule, weighting):
    rows = draw(3, 4, 100)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as files:
        updates = []
        for k, row in enumerate(rows):
            path = write_update(Path(folder) / str(k), {"x": row}, client=f"c{k}", n_examples=(k + 1) * 10)
            updates.append(files.enter_context(TensorFile(path, UpdateHeader)))
        found = run_rule(updates, AggregateSpec(rule=rule, weighting=weighting, max_examples=20))
    weights = np.array([10, 20, 20, 20]) / 70 if weighting == "examples" else np.full(4, 0.25)
    assert np.allclose(found, defined(rows, AggregateSpec(rule=rule), weights, None), atol=1e-12)


@pytest.mark.parametrize("rule", SPECS)
def test_of_identical_clients_every_rule_gives_the_update(rule):
    row = draw(5, 700)
    with opened(np.stack([row] * 8)) as (*updates, last):
        found = run_rule(updates, spec_of(rule), reference=last if rule == "fltrust" else None)
    assert np.array_equal(found.astype(np.float32), row)


@pytest.mark.parametrize("rule", SPECS)
@pytest.mark.parametrize("bits", ["full", "3"])
def test_threads_change_no_bit_and_neither_do_kernels(rule, bits):
    rows = draw(6, N_CLIENTS + 1, 5000)
    results = []
    with opened(rows, quantize=QuantSpec(bits=bits, block=48)) as (*updates, last):
        shapes = {"a.lora_A": (2, 1250), "head.bias": (2500,)}
        for threads, limit in ((1, 1), (2, 1), (5, 1), (1, 10**9)):
            with setting(stack, MIN_COMPILED=limit, _WINDOW_VALUES=4 * WINDOW_UNIT * N_CLIENTS):
                own = last if rule == "fltrust" else None
                results.append(run_rule(updates, spec_of(rule), reference=own, threads=threads, shapes=shapes))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["full", "ternary", "2", "3", "4", "5", "6", "8"]),
    st.one_of(st.sampled_from([16, 64, 4096, 8192]), st.integers(1, 5000)),
    st.sampled_from(["fp32", "fp16", "double"]),
    st.integers(1, 6000), st.integers(0, 20), st.booleans(), SEEDS,
)  # fmt: skip
def test_a_window_says_what_the_whole_component_says(bits, block, scale, n, position, compiled, seed):
    spec = QuantSpec(bits=bits, block=block, scale=scale)
    start = min(position * WINDOW_UNIT, (n - 1) // WINDOW_UNIT * WINDOW_UNIT)
    with tempfile.TemporaryDirectory() as folder:
        path = write_update(Path(folder) / "u", {"x": draw(seed, n)}, client="a", quantize=spec)
        with TensorFile(path, UpdateHeader) as update:
            whole = read_update(update, "x", (n,)).numpy()
            for stop in {n, min(n, start + WINDOW_UNIT), min(n, start + 3 * WINDOW_UNIT)}:
                out = np.empty(stop - start, np.float32)
                read_window(update, "x", start, out, compiled=compiled)
                assert np.array_equal(out, whole[start:stop])


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), st.floats(0.01, 1))
def test_no_share_is_above_the_limit_and_order_is_kept(counts, share):
    if share * len(counts) < 1:
        share = 1 / len(counts)
    weights = client_weights(counts, weighting="examples", max_examples=None, max_share=share)
    assert sum(weights) == pytest.approx(1)
    assert max(weights) <= share * (1 + 1e-9)
    ranked = [weight for _, weight in sorted(zip(counts, weights, strict=True))]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(ranked))


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), SEEDS)
def test_the_change_of_the_product_is_that_of_the_dense_one(rank, n_in, n_out, seed):
    a, da = (torch.from_numpy(draw(seed + k, rank, n_in)).double() for k in (0, 1))
    b, db = (torch.from_numpy(draw(seed + k, n_out, rank)).double() for k in (2, 3))
    dense = ((b + db) @ (a + da) - b @ a).square().sum().item()
    assert Product(a, b).squared_change(da, db) == pytest.approx(dense, rel=1e-9, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3000), SEEDS)
def test_the_mean_is_the_loop_that_adds_weight_times_update(n_clients, n, seed):
    """In float64, each product rounded before it is added: what anybody can compute again."""
    rows = draw(seed, n_clients, n)
    with opened(rows) as updates:
        found = run_rule(updates, AggregateSpec())
    mean = torch.zeros(n, dtype=torch.float64)
    for row in rows:
        mean += (1 / n_clients) * torch.from_numpy(row).double()
    assert np.array_equal(found, mean.numpy())
