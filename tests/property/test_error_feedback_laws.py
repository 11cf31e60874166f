"""Error feedback delays and loses nothing, whatever the rounding and whatever the deltas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.records.specs import QuantSpec
from fedlpp_cli.training.error_feedback import round_update

SPECS = st.builds(
    QuantSpec,
    bits=st.sampled_from(["ternary", "2", "3", "4", "5", "6", "8", "full"]),
    block=st.integers(1, 40),
    scale=st.sampled_from(["fp32", "fp16", "double"]),
)
SIZE = 37
ROUNDS = st.lists(
    st.tuples(SPECS, st.lists(st.floats(-1e3, 1e3, width=32), min_size=SIZE, max_size=SIZE)), min_size=1, max_size=6
)


@given(ROUNDS)
def test_all_that_was_sent_and_the_last_residual_are_all_that_was_trained(rounds):
    """Even if the owner changes the rounding from round to round."""
    sent, trained, residual = torch.zeros(SIZE).double(), torch.zeros(SIZE).double(), None
    largest = 0.0
    for spec, values in rounds:
        delta = torch.tensor(values, dtype=torch.float32)
        update = round_update({"x": delta}, spec, residual)
        residual = update.residual
        sent += update.values["x"].double()
        trained += delta.double()
        largest = max(largest, float(update.values["x"].abs().max()), float(residual["x"].abs().max()))
    assert (sent + residual["x"].double() - trained).abs().max() <= len(rounds) * 2.0**-22 * largest


def errors_after(n_rounds, bits, *, with_feedback):
    """How far the sum of what was sent is from the sum of equal deltas, as a share of one delta."""
    delta = {"x": torch.randn(4096, generator=torch.Generator().manual_seed(0)).abs() * 1e-3}
    spec, residual, sent = QuantSpec(bits=bits), None, torch.zeros(4096).double()
    found = []
    for number in range(1, n_rounds + 1):
        update = round_update(delta, spec, residual)
        residual = update.residual if with_feedback else None
        sent += update.values["x"].double()
        found.append(float((sent - number * delta["x"].double()).norm() / delta["x"].norm()))
    return found


@pytest.mark.parametrize("bits", ["ternary", "2"])
def test_a_biased_codebook_drifts_without_feedback_and_not_with_it(bits):
    """Positive deltas: few levels take the same part of each one away, round after round."""
    without = errors_after(32, bits, with_feedback=False)
    kept = errors_after(32, bits, with_feedback=True)
    assert without[-1] == pytest.approx(32 * without[0], rel=1e-3)
    assert kept[0] == without[0]
    assert max(kept[16:]) < 1.1 * max(kept[:16])  # it does not grow
    assert kept[-1] < without[-1] / 20
