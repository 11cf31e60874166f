"""What holds when products are averaged, whatever factors of whatever ranks: against dense matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.adapters.ranks import first_terms, lora_of_rank
from fedlpp_cli.aggregation.combine import combine_products, stack_factors
from fedlpp_cli.records.specs import LoraSpec

OUT, IN, RANK = 11, 7, 4  # no square, and more columns than rows once there are some clients
SPARE = torch.linspace(1, 2, RANK * IN, dtype=torch.float64).reshape(RANK, IN)


@st.composite
def rounds(draw, *, max_clients=4):
    """Owner's pair, what is withheld, proxies by rank, and of each client rank, changes and weight; and eta."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-3, 3))

    def pair(rank):
        return torch.from_numpy(numbers.normal(size=(OUT, rank)) * scale), torch.from_numpy(
            numbers.normal(size=(rank, IN))
        )

    theta = pair(RANK)
    withheld = pair(draw(st.integers(1, 3))) if draw(st.booleans()) else None
    ranks = draw(st.lists(st.integers(1, RANK), min_size=1, max_size=max_clients))
    proxies = {rank: pair(rank) for rank in set(ranks)}
    changes = [pair(rank) for rank in ranks]
    weights = numbers.random(len(ranks)) + 0.1
    return (
        theta,
        withheld,
        proxies,
        ranks,
        changes,
        (weights / weights.sum()).tolist(),
        draw(st.sampled_from([1.0, 0.3])),
    )


def stacked(given_round):
    theta, withheld, proxies, ranks, changes, weights, rate = given_round
    trained = [
        ((proxies[rank][0] + b, proxies[rank][1] + a), weight)
        for rank, (b, a), weight in zip(ranks, changes, weights, strict=True)
    ]
    started = [
        (pair, sum(weight for one, weight in zip(ranks, weights, strict=True) if one == rank))
        for rank, pair in proxies.items()
    ]
    return stack_factors(theta, withheld, trained, started, rate=rate)


def dense(given_round):
    """The exact product after the round, and the one before."""
    theta, withheld, proxies, ranks, changes, weights, rate = given_round
    before = theta[0] @ theta[1] + (withheld[0] @ withheld[1] if withheld else 0)
    after = before.clone()
    for rank, (b, a), weight in zip(ranks, changes, weights, strict=True):
        p_b, p_a = proxies[rank]
        after += rate * weight * ((p_b + b) @ (p_a + a) - p_b @ p_a)
    return after.numpy(), before.numpy()


def mean_factors(given_round):
    """HetLoRA's: changes of lower rank filled up with zeros."""
    (b, a), _, _, ranks, changes, weights, rate = given_round
    b, a = b.clone(), a.clone()
    for rank, (change_b, change_a), weight in zip(ranks, changes, weights, strict=True):
        b[:, :rank] += rate * weight * change_b
        a[:rank] += rate * weight * change_a
    return b, a


def product(pair):
    return (pair[0] @ pair[1]).numpy()


def close(found, expected, size):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * size)


@given(rounds())
def test_stack_keeps_the_exact_sum_and_its_factors_are_the_best_of_their_rank(given_round):
    after, before = dense(given_round)
    size = np.linalg.norm(after)
    combined = combine_products(stacked(given_round), "stack", SPARE)
    close(product(combined.factors) + product(combined.withheld), after, size)
    left, values, right = np.linalg.svd(after)
    best = (left[:, :RANK] * values[:RANK]) @ right[:RANK]
    np.testing.assert_allclose(
        np.linalg.norm(after - product(combined.factors)), np.linalg.norm(after - best), atol=1e-6 * size
    )
    assert combined.moved == pytest.approx(np.linalg.norm(after - before), rel=1e-6)


@given(rounds())
def test_svd_is_the_truncated_svd_of_the_dense_product_and_withholds_nothing(given_round):
    after, before = dense(given_round)
    combined = combine_products(stacked(given_round), "svd", SPARE)
    left, values, right = np.linalg.svd(after, full_matrices=False)
    if values[RANK - 1] - values[RANK] > 1e-3 * values[0]:  # else the best factors are not the only ones
        close(product(combined.factors), (left[:, :RANK] * values[:RANK]) @ right[:RANK], values[0])
    assert [tuple(one.shape) for one in combined.withheld] == [(OUT, 0), (0, IN)]
    assert combined.moved == pytest.approx(np.linalg.norm(product(combined.factors) - before), rel=1e-6)


@given(rounds())
def test_residual_withholds_what_the_mean_of_factors_lacks(given_round):
    after, before = dense(given_round)
    means = mean_factors(given_round)
    stack = stacked(given_round)
    np.testing.assert_allclose(stack.b @ stack.mean, means[0], atol=1e-9 * float(means[0].abs().max()))
    np.testing.assert_allclose(stack.mean.T @ stack.a, means[1], atol=1e-9)
    combined = combine_products(stack, "residual", SPARE)
    assert combined.factors is None
    size = max(np.linalg.norm(after), np.linalg.norm(product(means)))
    close(product(means) + product(combined.withheld), after, size)
    assert len(combined.withheld[1]) <= IN
    assert combined.moved == pytest.approx(np.linalg.norm(after - before), rel=1e-6)


@given(rounds(max_clients=1), st.integers(2, 5), st.sampled_from(["svd", "stack"]))
def test_identical_clients_are_one(given_round, n_clients, combine):
    theta, withheld, proxies, ranks, changes, _, rate = given_round
    many = theta, withheld, proxies, ranks * n_clients, changes * n_clients, [1 / n_clients] * n_clients, rate
    one, same = (combine_products(stacked(each), combine, SPARE) for each in (given_round, many))
    size = np.linalg.norm(dense(given_round)[0])
    close(product(same.factors), product(one.factors), size)
    close(product(same.withheld), product(one.withheld), size)


@given(rounds(max_clients=1))
def test_clients_who_start_at_the_owners_factors_and_agree_leave_nothing_to_withhold(given_round):
    theta, _, _, _, _, _, _ = given_round
    change = theta[0].flip(0), theta[1].flip(0)
    agreed = theta, None, {RANK: theta}, [RANK] * 3, [change] * 3, [1 / 3] * 3, 1.0
    combined = combine_products(stacked(agreed), "residual", SPARE)
    assert len(combined.withheld[1]) == 0


@given(rounds(), st.sampled_from(["svd", "stack"]))
def test_a_singular_value_is_split_evenly_and_its_sign_is_fixed(given_round, combine):
    combined = combine_products(stacked(given_round), combine, SPARE)
    for b, a in (combined.factors, combined.withheld):
        columns, rows = b.norm(dim=0), a.norm(dim=1)
        np.testing.assert_allclose(columns, rows, rtol=1e-9)
        assert (columns.diff() <= 1e-9 * columns[:1]).all()
        if b.shape[1]:
            assert (b.gather(0, b.abs().argmax(dim=0)[None]) > 0).all()


def test_where_the_product_has_a_lower_rank_the_other_factors_start_as_at_first():
    """Zeros in A and in B would have no gradient for ever."""
    b, a = torch.ones(OUT, 1, dtype=torch.float64), torch.ones(1, IN, dtype=torch.float64)
    theta = torch.zeros(OUT, RANK, dtype=torch.float64), SPARE
    proxy = theta[0][:, :1], SPARE[:1]
    one = theta, None, {1: proxy}, [1], [(b, a)], [1.0], 1.0
    for combine in ("svd", "stack"):
        combined = combine_products(stacked(one), combine, SPARE)
        found_b, found_a = combined.factors
        assert torch.equal(found_a[1:], SPARE[1:])
        assert torch.equal(found_b[:, 1:], torch.zeros(OUT, RANK - 1, dtype=torch.float64))
        close(product(combined.factors), dense(one)[0], 1.0)
        assert len(combined.withheld[1]) == 0


def test_nothing_at_all_stays_nothing():
    theta = torch.zeros(OUT, RANK, dtype=torch.float64), torch.zeros(RANK, IN, dtype=torch.float64)
    nothing = theta, None, {RANK: theta}, [RANK], [theta], [1.0], 1.0
    for combine in ("svd", "stack", "residual"):
        combined = combine_products(stacked(nothing), combine, SPARE)
        assert (combined.moved, len(combined.withheld[1])) == (0.0, 0)


@given(rank=st.integers(1, 8), full=st.integers(8, 16), alpha=st.floats(0.1, 100), use_rslora=st.booleans())
def test_first_terms_have_the_scaling_of_the_whole(rank, full, alpha, use_rslora):
    lora = LoraSpec(rank=full, alpha=alpha, use_rslora=use_rslora)
    assert lora_of_rank(lora, rank).scaling == pytest.approx(lora.scaling, rel=1e-15)
    assert lora_of_rank(lora, full) is lora
    b, a, head = torch.rand(5, full), torch.rand(full, 3), torch.rand(full, full)
    cut_b, cut_a = first_terms("m.lora_B", b, rank), first_terms("m.lora_A", a, rank)
    assert torch.equal(cut_b, b[:, :rank])
    assert torch.equal(cut_a, a[:rank])
    assert cut_b.is_contiguous()
    assert first_terms("head.weight", head, rank) is head
