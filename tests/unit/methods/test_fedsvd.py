"""FedSVD's split of a product: the same product, an A of orthonormal rows, the best terms first."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.forge import read_all
from support.parties import RECIPE, Federation

from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.methods.fedsvd import refactor
from fedlpp_cli.records.specs import LoraSpec, QuantSpec


def draw(m, n, rank, seed):
    draws = torch.Generator().manual_seed(seed)
    options = {"generator": draws, "dtype": torch.float64}
    return torch.randn(m, rank, **options), torch.randn(rank, n, **options)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 6), st.integers(0, 99))
def test_the_product_stays_and_rows_are_orthonormal(rank, more_rows, more_columns, seed):
    b, a = draw(rank + more_rows, rank + more_columns, rank, seed)
    new_b, new_a = refactor(b, a)
    np.testing.assert_allclose(new_b @ new_a, b @ a, atol=1e-10)
    np.testing.assert_allclose(new_a @ new_a.T, np.eye(rank), atol=1e-10)
    gram = (new_b.T @ new_b).numpy()
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert (np.diff(np.diag(gram)) <= 1e-9).all()


def test_signs_and_a_second_time_change_nothing():
    b, a = draw(7, 9, 3, 0)
    once = refactor(b, a)
    flipped = refactor(-b, -a)
    again = refactor(*once)
    for first, other, second in zip(once, flipped, again, strict=True):
        np.testing.assert_allclose(other, first, atol=1e-10)
        np.testing.assert_allclose(second, first, atol=1e-10)


def test_before_anything_is_learned_nothing_changes():
    _, a = draw(7, 9, 3, 1)
    b = torch.zeros(7, 3, dtype=torch.float64)
    assert refactor(b, a) == (b, a)


def test_a_product_of_a_lower_rank_has_orthonormal_rows_too():
    b, a = draw(7, 9, 3, 2)
    b[:, 2] = b[:, 0]
    new_b, new_a = refactor(b, a)
    np.testing.assert_allclose(new_b @ new_a, b @ a, atol=1e-10)
    np.testing.assert_allclose(new_a @ new_a.T, np.eye(3), atol=1e-10)


def test_what_clients_get_is_the_folded_model_split_anew(tmp_path, llama):
    run = Federation(
        tmp_path, llama, method="fedsvd", lora=LoraSpec(rank=2, target_modules=("q_proj",)), train=RECIPE,
        quantize=QuantSpec(bits="3", block=16),
    )  # fmt: skip
    run.play(2)
    for number in range(2):
        before, after = read_all(run.master(number)), read_all(run.master(number + 1))
        updates = [read_all(path) for path in run.updates(number)]
        for module in factor_modules(before):
            b, a = factor_b(module), factor_a(module)
            folded = before[b] + sum(update[b] for update in updates) / len(updates)
            np.testing.assert_allclose(after[b] @ after[a], folded @ before[a], atol=1e-6)
            np.testing.assert_allclose(after[a] @ after[a].T, np.eye(2), atol=1e-6)
