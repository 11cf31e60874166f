"""What owner and clients work out apart stays one thing, whatever was trained, sent, and by how many."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.aggregation.control_variates import ControlStep
from fedlpp_cli.training.control_variates import corrections, own_after

SIZE = 5
VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=SIZE, max_size=SIZE).map(torch.tensor)
CLIENTS = st.lists(st.tuples(VALUES, VALUES, st.booleans()), min_size=1, max_size=6)
RATE_SUMS = st.floats(1e-3, 1e3)


@given(CLIENTS, VALUES, RATE_SUMS)
def test_the_owners_stays_as_far_from_the_mean_of_the_clients_as_it_was(clients, seen, rate_sum):
    """So it is the mean, if it was: `seen` is any rounding of it. Who does not take part keeps what it has."""
    owns = torch.stack([own.double() for own, _, _ in clients])
    before, chosen = owns.mean(0), [k for k, (_, _, takes_part) in enumerate(clients) if takes_part]
    if not chosen:
        return
    after = owns.clone()
    for k in chosen:
        own, sent, _ = clients[k]
        after[k] = own_after({"x": own}, {"x": seen}, {"x": sent}, rate_sum)["x"].double()
    mean = torch.stack([clients[k][1].double() for k in chosen]).mean(0)
    found = ControlStep(len(chosen), len(clients), len(clients), rate_sum).next_value(before, seen.double(), mean)
    size = max(float(after.abs().max()), float(owns.abs().max()), float(seen.abs().max()))
    assert (found - after.mean(0)).abs().max() <= 2.0**-23 * (size + 1)


@given(VALUES, VALUES, VALUES, RATE_SUMS)
def test_a_round_forgets_what_the_clients_own_was(own, seen, gradient, rate_sum):
    """A way of S along g - c_i + c leaves g, but for what float32 rounds."""
    added = corrections({"x": own}, {"x": seen})["x"].double()
    sent = (-rate_sum * (gradient.double() + added)).float()
    found = own_after({"x": own}, {"x": seen}, {"x": sent}, rate_sum)["x"].double()
    assert (found - gradient.double()).abs().max() <= 2.0**-21 * 4e3
