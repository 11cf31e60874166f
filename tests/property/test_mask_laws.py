"""Laws of masks: the expectation stays, nobody but the owner can draw them, and means are over those who see."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rounds import first_round
from support.updates import write_update

from fedlpp_cli import aggregate, pack, quantize
from fedlpp_cli.adapters.masks import draw_masks, read_rows, row_factors
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.hidden_rows import hide_rows
from fedlpp_cli.quantization.tensors import dequantize_tensor, quantize_tensor
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import FULL_PRECISION, AggregateSpec, QuantSpec, TrainSpec

FEDERATION = "f" * 64
B = "layer.lora_B"
SHARES = st.floats(0, 0.99)
SPECS = [
    FULL_PRECISION,
    QuantSpec(bits="ternary", block=16),
    QuantSpec(bits="2", block=7, scale="double"),
    QuantSpec(bits="3", scale="fp32", scale_rounding="fit"),
    QuantSpec(bits="3", block=16, codebook="symmetric"),
    QuantSpec(bits="4", block=300, rounding="stochastic", rounding_seed="x"),
    QuantSpec(bits="8", block=1, scale_rounding="up"),
]


def shapes_of(n_rows, rank=2):
    return {"layer.lora_A": (rank, 5), B: (n_rows, rank), "head.weight": (3, 8)}


def drawn(n_rows, spec, client="a", *, seed=2**50, federation=FEDERATION, round_number=0):
    return draw_masks(
        shapes_of(n_rows), spec, seed=seed, federation=federation, client=client, round_number=round_number
    )[B]


@given(st.integers(1, 300), SHARES, SHARES, st.integers(0, 5))
def test_as_many_rows_are_hidden_as_was_asked_for(n_rows, server, client, seed):
    spec = MaskSpec(server=server, client=client)
    masks = draw_masks(shapes_of(n_rows), spec, seed=seed, federation=FEDERATION, client="a", round_number=0)
    assert set(masks) == {B}
    left = n_rows - min(int(server * n_rows + 1e-6), n_rows - 1)
    assert masks[B].sum() == left - min(int(client * left + 1e-6), left - 1) >= 1


@given(st.sampled_from([4, 40, 97]), st.sampled_from([0.0, 0.25]), st.sampled_from([0.25, 0.5, 0.7]))
@settings(max_examples=9, deadline=None)
def test_the_mean_over_clients_is_what_the_server_s_mask_leaves(n_rows, server, client):
    """FedQSN's law. Each row is there in a share q of the masks and counts 1 / q times where it is."""
    n_clients = 2000
    spec = MaskSpec(server=server, client=client)
    masks = np.stack([drawn(n_rows, spec, f"c{k}") for k in range(n_clients)])
    kept = drawn(n_rows, MaskSpec(server=server), None)
    assert (masks <= kept).all()
    q = masks[0].sum() / kept.sum()
    scaled = masks * (n_rows / masks.sum(axis=1, keepdims=True))
    error = np.abs(scaled.mean(axis=0) - kept * (n_rows / kept.sum()))
    assert (error <= 5 * np.sqrt((1 / q - 1) / n_clients) * n_rows / kept.sum() + 1e-9).all()


def test_the_mean_over_federations_is_the_adapter():
    """The server's own mask too keeps the expectation: over all that it could have been."""
    n_rows, spec = 40, MaskSpec(server=0.25, client=0.5)
    masks = np.stack([drawn(n_rows, spec, seed=2**50 + k) for k in range(2000)])
    q = masks[0].mean()
    assert np.abs(masks.mean(axis=0) / q - 1).max() <= 5 * np.sqrt((1 / q - 1) / 2000)


def test_masks_are_fixed_unless_fresh_and_differ_between_clients_and_secrets():
    fixed, fresh = MaskSpec(server=0.25, client=0.5), MaskSpec(server=0.25, client=0.5, fresh=True)
    one = drawn(64, fixed)
    assert all(np.array_equal(drawn(64, fixed, round_number=number), one) for number in range(5))
    assert not np.array_equal(drawn(64, fresh, round_number=1), drawn(64, fresh, round_number=2))
    assert not np.array_equal(drawn(64, fixed, "b"), one)
    assert not np.array_equal(drawn(64, fixed, seed=2**50 + 1), one)
    assert not np.array_equal(drawn(64, fixed, federation="e" * 64), one)
    server = drawn(64, MaskSpec(server=0.25), None)
    seen = np.any([drawn(64, fresh, round_number=number) for number in range(40)], axis=0)
    assert np.array_equal(seen, server)  # what fresh masks give away in the end, and fixed ones do not


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.bits}-{spec.scale}-{spec.codebook}")
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rows_that_are_left_are_what_they_were_to_the_bit(spec, n_rows, rank, seed):
    draws = np.random.default_rng(seed)
    x = torch.from_numpy(draws.standard_normal((n_rows, rank)).astype(np.float32))
    visible = torch.from_numpy(draws.random(n_rows) < 0.5)
    parts = quantize_tensor(x, spec, name="x")
    hidden = hide_rows(parts, visible, (n_rows, rank), spec)
    assert {name: (one.dtype, one.shape) for name, one in hidden.items()} == {
        name: (one.dtype, one.shape) for name, one in parts.items()
    }
    found, whole = (dequantize_tensor(some, (n_rows, rank), spec) for some in (hidden, parts))
    assert found[visible].equal(whole[visible])
    assert (found[~visible] == 0).all()
    again = hide_rows(quantize_tensor(torch.where(visible.unsqueeze(1), x, 7 * x), spec, name="x"), visible,
                      (n_rows, rank), spec)  # fmt: skip
    if spec.block == 1 or (spec.bits == "full"):  # no block is shared: nothing depends on what is hidden
        assert all(again[name].equal(hidden[name]) for name in hidden)


@contextmanager
def masked_round(n_rows, clients, spec, quantize_spec=FULL_PRECISION, theta=None):
    """A master, a package for each client, and what an update of its needs to know."""
    draws = np.random.default_rng(1)
    theta = theta or {
        name: draws.standard_normal(shape).astype(np.float32) for name, shape in shapes_of(n_rows).items()
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        opened = first_round(folder, theta)
        parents = {}
        for client in clients:
            proxy, package = folder / f"proxy-{client}", folder / f"package-{client}"
            quantize(opened.master, out=proxy, spec=quantize_spec, mask=spec, client=client)
            pack(proxy, out=package, train=TrainSpec(steps=1), ledger=folder / "ledger")
            parents[client] = {
                "package": (sha256_of_file(package / "manifest.json"),), "proxy": (sha256_of_file(proxy),),
            }  # fmt: skip
        yield folder, opened, theta, parents


def folded(folder, opened, parents, updates, n_examples, spec):
    files = [
        write_update(folder / f"update-{client}", values, client=client, n_examples=n,
                     federation=opened.federation, parents=parents[client])
        for (client, values), n in zip(updates.items(), n_examples, strict=True)
    ]  # fmt: skip
    out = folder / "next"
    aggregate(opened.master, files, packages=[folder / f"package-{one}" for one in updates], out=out, spec=spec)
    with TensorFile(out, MasterHeader) as master:
        return {name: master.read(name).double().numpy() for name in shapes_of(1)}


@given(st.integers(1, 12), st.integers(1, 4), st.sampled_from([0.0, 0.3]), st.sampled_from([0.3, 0.5, 0.8]),
       st.sampled_from(["aware", "unaware"]), st.booleans(), st.integers(0, 99))  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_mean_is_that_of_the_definition(n_rows, n_clients, server, client, mean, scaling, seed):
    draws = np.random.default_rng(seed)
    clients = [f"c{k}" for k in range(n_clients)]
    mask = MaskSpec(server=server, client=client, scaling=scaling)
    with masked_round(n_rows, clients, mask) as (folder, opened, theta, parents):
        updates = {
            one: {name: draws.standard_normal(value.shape).astype(np.float32) for name, value in theta.items()}
            for one in clients
        }
        counts = draws.integers(1, 50, n_clients).tolist()
        spec = AggregateSpec(mask_mean=mean, weighting="examples", clip_norm=3.0)
        after = folded(folder, opened, parents, updates, counts, spec)
        visible = {one: drawn(n_rows, mask, one, seed=0, federation=opened.federation) for one in clients}
    norms = {one: np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in updates[one].values()))
             for one in clients}  # fmt: skip
    weights = {one: count / sum(counts) for one, count in zip(clients, counts, strict=True)}
    for name, value in theta.items():
        rows = {one: visible[one] if name == B else np.ones(len(value), bool) for one in clients}
        total = sum(
            weights[one] * min(1, 3 / norms[one]) * rows[one][:, None] * updates[one][name].astype(np.float64)
            for one in clients
        )
        if mean == "aware":
            seen = sum(weights[one] * rows[one] for one in clients)
            total = np.where(seen[:, None] > 0, total / np.where(seen > 0, seen, 1)[:, None], 0)
            total *= rows[clients[0]].mean() if scaling else 1
        assert np.allclose(after[name], value + total, rtol=0, atol=1e-6)


def test_two_clients_who_see_nothing_in_common_move_their_own_rows():
    mask = MaskSpec(client=0.5, scaling=False)
    with masked_round(2, ("a",), mask) as (_, opened, _, _):
        name = next(
            f"b{k}" for k in range(99)
            if not (drawn(2, mask, f"b{k}", seed=0, federation=opened.federation)
                    & drawn(2, mask, "a", seed=0, federation=opened.federation)).any()
        )  # fmt: skip
    with masked_round(2, ("a", name), mask) as (folder, opened, theta, parents):
        updates = {one: {key: np.full_like(value, size) for key, value in theta.items()}
                   for one, size in (("a", 1.0), (name, 5.0))}  # fmt: skip
        after = folded(folder, opened, parents, updates, [1, 1], AggregateSpec())
        own = drawn(2, mask, "a", seed=0, federation=opened.federation)
    assert np.allclose(after[B] - theta[B], np.where(own, 1.0, 5.0)[:, None], atol=1e-6)
    assert np.allclose(after["layer.lora_A"] - theta["layer.lora_A"], 3.0, atol=1e-6)


@pytest.mark.parametrize("mean", ["aware", "unaware"])
def test_scaled_masks_keep_the_master_the_mean_of_what_clients_trained(mean):
    """Over many clients, from the proxies that they started at: the expectation law of a whole round."""
    clients = [f"c{k}" for k in range(200)]
    with masked_round(8, clients, MaskSpec(client=0.5)) as (folder, opened, theta, parents):
        updates = {  # equal ones would be copies
            one: {name: np.full_like(value, 0.5 + k * 1e-6) for name, value in theta.items()}
            for k, one in enumerate(clients)
        }
        after = folded(folder, opened, parents, updates, [1] * 200, AggregateSpec(mask_mean=mean))
        trained = np.zeros_like(theta[B])
        for one in clients:
            with TensorFile(folder / f"proxy-{one}", ProxyHeader) as proxy:
                trained += (read_component(proxy, B).numpy() + 0.5 * read_rows(proxy, B)[:, None]) / 200
    assert np.allclose(after[B] - theta[B], 0.25, atol=1e-3 if mean == "aware" else 0.5 * 5 * np.sqrt(0.25 / 200))
    assert (np.abs(after[B] - trained) <= 5 * np.sqrt(1 / 200) * np.abs(theta[B]) + 0.5 * 5 * np.sqrt(0.25 / 200)).all()


def test_large_components_are_masked_window_by_window():
    """Beyond the size where the compiled loops begin, and in more than one window."""
    n_rows, rank, clients = 600_000, 2, ("a", "b", "c")
    mask = MaskSpec(client=0.5, scaling=False)
    theta = {"layer.lora_A": np.ones((rank, 5), np.float32), B: np.zeros((n_rows, rank), np.float32),
             "head.weight": np.ones((3, 8), np.float32)}  # fmt: skip
    with masked_round(n_rows, clients, mask, theta=theta) as (folder, opened, _, parents):
        updates = {one: {key: np.full_like(value, 3.0**k) for key, value in theta.items()}
                   for k, one in enumerate(clients)}  # fmt: skip
        after = folded(folder, opened, parents, updates, [1, 1, 1], AggregateSpec())
        rows = np.stack([drawn(n_rows, mask, one, seed=0, federation=opened.federation) for one in clients])
    sizes = np.array([[1.0], [3.0], [9.0]])
    expected = (rows * sizes).sum(axis=0) / np.maximum(rows.sum(axis=0), 1)
    assert np.allclose(after[B], expected[:, None], atol=1e-6)


def test_the_mean_of_many_clients_proxies_is_the_adapter():
    """As above, by way of the files: what is read out of them, scaled and masked."""
    clients = [f"c{k}" for k in range(200)]
    with masked_round(8, clients, MaskSpec(client=0.5)) as (folder, _, theta, _):
        proxies = [TensorFile(folder / f"proxy-{one}", ProxyHeader) for one in clients]
        mean = {name: torch.stack([read_component(proxy, name) for proxy in proxies]).mean(0) for name in theta}
        for proxy in proxies:
            proxy.close()
    assert all(np.allclose(mean[name], theta[name], atol=1e-5) for name in theta if name != B)
    assert (np.abs(mean[B].numpy() / theta[B] - 1) <= 5 * np.sqrt(1 / 200)).all()


def test_what_clients_get_does_not_say_what_masks_are_drawn_from():
    """The seed is in no proxy: the same public header goes with many masks, and only the master tells which it is."""
    spec = MaskSpec(client=0.5)
    with (
        masked_round(16, ("a",), spec) as (folder, opened, _, _),
        TensorFile(folder / "proxy-a", ProxyHeader) as proxy,
        TensorFile(opened.master, MasterHeader) as master,
    ):
        header = json.loads(proxy.raw_header)
        assert "seed" not in {*header, *header["spec"], *header["spec"]["model"], *header["spec"]["mask"]}
        found, federation = read_rows(proxy, B), header["federation"]
        assert np.array_equal(found, drawn(16, spec, seed=master.header.spec.seed, federation=federation))
        assert np.allclose(row_factors(proxy, B), found * 2.0)
        assert row_factors(proxy, "layer.lora_A") is None
    guesses = {drawn(16, spec, seed=number, federation=federation).tobytes() for number in range(1, 51)}
    assert len(guesses) > 40
