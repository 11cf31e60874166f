"""One in five clients against the owner: what robust rules keep, and the mean does not. And memory."""

import tracemalloc

import numpy as np
import pytest
from support.updates import run_rule, write_rows

from fedlpp_cli.aggregation import stack
from fedlpp_cli.aggregation.norms import update_norm
from fedlpp_cli.records.specs import AggregateSpec

N_CLIENTS, N_MALICIOUS, N_VALUES = 20, 4, 300
ROBUST = {
    "median": {},
    "trimmed-mean": {"n_malicious": N_MALICIOUS},
    "krum": {"n_malicious": N_MALICIOUS},
    "multi-krum": {"n_malicious": N_MALICIOUS},
    "bulyan": {"n_malicious": N_MALICIOUS},
    "geometric-median": {},
    "centered-clipping": {},
    "fltrust": {},
    "mean": {"clip_to_median": True},
}


@pytest.fixture(scope="module")
def rows():
    """Honest updates go one way with as much noise; the last is the owner's reference."""
    random = np.random.default_rng(0)
    way = random.standard_normal(N_VALUES)
    rows = (way + random.standard_normal((N_CLIENTS + 1, N_VALUES))).astype(np.float32)
    rows[:N_MALICIOUS] *= -10
    return rows


def distance(updates, honest, **spec):
    reference = updates[-1] if spec.get("rule") == "fltrust" else None
    found = run_rule(updates[:N_CLIENTS], AggregateSpec(**spec), reference=reference)
    return np.linalg.norm(found - honest) / np.linalg.norm(honest)


def test_flipped_and_scaled_updates_turn_the_mean_around(rows, tmp_path):
    honest = rows[N_MALICIOUS:N_CLIENTS].mean(axis=0)
    updates = write_rows(tmp_path, rows)
    assert distance(updates, honest) > 2


@pytest.mark.parametrize("rule", ROBUST)
def test_robust_rules_stay_near_the_honest_mean(rows, tmp_path, rule):
    honest = rows[N_MALICIOUS:N_CLIENTS].mean(axis=0)
    # Krum takes one client's update, with all of its noise.
    limit = 1.2 if rule == "krum" else 0.7
    assert distance(write_rows(tmp_path, rows), honest, rule=rule, **ROBUST[rule]) < limit


@pytest.mark.parametrize("factor", [1e10, 1e30])
def test_no_size_of_an_attack_gets_through(rows, tmp_path, factor):
    honest = rows[N_MALICIOUS:N_CLIENTS].mean(axis=0)
    rows = rows.copy()
    rows[:N_MALICIOUS] *= np.float32(factor)
    updates = write_rows(tmp_path, rows)
    for rule, more in ROBUST.items():
        assert distance(updates, honest, rule=rule, **more) < 1.2, rule


@pytest.mark.parametrize("rule", ["mean", "trimmed-mean", "geometric-median"])
def test_memory_does_not_grow_with_the_clients(tmp_path, monkeypatch, rule):
    monkeypatch.setattr(stack, "_WINDOW_VALUES", 2**16)
    row = np.random.default_rng(1).standard_normal(2**17).astype(np.float32)
    spec = AggregateSpec(rule=rule, n_malicious=1 if rule == "trimmed-mean" else 0)
    peaks = {}
    for n_clients in (4, 4, 40):
        folder = tmp_path / f"{n_clients}-{len(peaks)}"
        folder.mkdir()
        updates = write_rows(folder, [row * k for k in range(1, n_clients + 1)])
        tracemalloc.start()
        run_rule(updates, spec)
        peaks[n_clients] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[40] < 1.2 * peaks[4]
    assert peaks[40] < 40 * row.nbytes / 4


def test_a_window_of_very_many_clients_is_still_bounded():
    for n_clients in (1, 16, 1000, 10_000):
        size = stack.window_size(n_clients)
        assert size % 320 == 0
        assert 4 * size * n_clients <= 64 * 2**20


def test_a_norm_is_that_of_all_values(tmp_path):
    rows = np.random.default_rng(2).standard_normal((1, 3001)).astype(np.float32)
    (update,) = write_rows(tmp_path, rows)
    shapes = {name: info.shape for name, info in update.tensors.items()}
    assert update_norm(update, shapes, None) == pytest.approx(np.linalg.norm(rows.astype(np.float64)), rel=1e-12)
