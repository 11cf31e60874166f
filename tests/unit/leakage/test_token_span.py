"""Which inputs an update can have been made of."""

import pytest
import torch

from fedlpp_cli.leakage.token_span import distances, span_of


def normal(*shape, seed=0):
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


def update(inputs, n_out=40):
    """What a linear layer of `n_out` outputs gets from inputs `(T, n)`: one row an output."""
    return normal(n_out, len(inputs), seed=9) @ inputs


def test_inputs_are_in_the_span_and_others_are_not():
    inputs, others = normal(5, 16), normal(50, 16, seed=1)
    span = span_of(update(inputs), error=1e-6)
    assert (len(span.directions), span.n_rows, span.is_exact) == (5, 16, True)
    assert distances(span, inputs).max() < 1e-5
    assert distances(span, others).min() > 0.3


@pytest.mark.parametrize("n_inputs", [16, 40])
def test_with_as_many_inputs_as_directions_nothing_is_excluded(n_inputs):
    inputs = normal(n_inputs, 16)
    span = span_of(update(inputs), error=1e-6)
    assert not span.is_exact
    assert len(span.directions) == 8


def test_what_later_steps_add_is_behind_a_fall():
    inputs = normal(4, 16)
    span = span_of(update(inputs) + 1e-3 * normal(40, 16, seed=3), error=1e-6)
    assert (len(span.directions), span.is_exact) == (4, True)
    assert distances(span, inputs).max() < 0.01


def test_noise_as_large_as_the_update_leaves_no_fall():
    span = span_of(update(normal(4, 16)) + 3 * normal(40, 16, seed=3), error=1e-6)
    assert not span.is_exact


def test_zeros_and_what_rounding_leaves_are_no_update():
    assert span_of(torch.zeros(4, 8), error=1e-6) is None
    stored = normal(8, 16)
    assert span_of(((stored + 1e-3) - 1e-3) - stored, error=1e-6) is None


def test_one_direction_alone_is_full():
    span = span_of(normal(1, 6), error=1e-6)
    assert not span.is_exact
