"""Each attack's formula, on tensors small enough to compute by hand."""

import math

import pytest
import torch

from fedlpp_cli.engines.update_attacks import Moments, alie, alie_z, boosted, gaussian, ipm, moments, sign_flip
from fedlpp_cli.randomness import generator

HONEST = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([8.0, 5.0]))
# Means 4 and 3; squared deviations 9 + 1 + 16 and 1 + 1 + 4.
SIGMA = (math.sqrt(26 / 3), math.sqrt(2))


def exact(tensor):
    assert tensor.dtype == torch.float32
    return tensor.tolist()


def test_mean_and_deviation_of_the_honest():
    found = moments(iter(HONEST))
    assert (found.mean.dtype, found.sigma.dtype) == (torch.float64, torch.float64)
    assert found.mean.tolist() == pytest.approx([4.0, 3.0], rel=1e-15)
    assert found.sigma.tolist() == pytest.approx(SIGMA, rel=1e-15)


def test_one_client_deviates_from_nobody():
    found = moments([HONEST[0]])
    assert (found.mean.tolist(), found.sigma.tolist()) == ([1.0, 2.0], [0.0, 0.0])


def test_a_large_mean_does_not_swallow_the_deviation():
    found = moments([torch.tensor([1e6 - 1]), torch.tensor([1e6]), torch.tensor([1e6 + 1])])
    assert found.sigma.item() == pytest.approx(math.sqrt(2 / 3), rel=1e-12)


def test_without_updates_there_is_nothing_to_know():
    with pytest.raises(ValueError, match="no update"):
        moments([])


def test_the_attacks_on_known_numbers():
    honest = moments(HONEST)
    assert exact(sign_flip(torch.tensor([0.5, -2.0]), 10.0)) == [-5.0, 20.0]
    assert exact(boosted(torch.tensor([0.5, -2.0]), 10.0)) == [5.0, -20.0]
    assert exact(ipm(honest, 0.5)) == [-2.0, -1.5]
    assert exact(alie(honest, 1.5)) == pytest.approx([4 - 1.5 * SIGMA[0], 3 - 1.5 * SIGMA[1]], rel=1e-6)


def test_noise_has_the_size_that_was_asked_for_and_a_name():
    shape = (200, 100)
    honest = Moments(torch.full(shape, 3.0, dtype=torch.float64), torch.full(shape, 4.0, dtype=torch.float64))
    noise = gaussian(honest, 2.0, generator("a"))
    assert noise.shape == shape
    # The size of honest values is 5; of 20,000 draws the mean is within 5 / 141 of 0, a dozen times over.
    assert noise.double().square().mean().sqrt().item() == pytest.approx(10.0, rel=0.05)
    assert abs(noise.mean().item()) < 0.5
    assert torch.equal(noise, gaussian(honest, 2.0, generator("a")))
    assert not torch.equal(noise, gaussian(honest, 2.0, generator("b")))


@pytest.mark.parametrize(
    ("n_clients", "n_attackers", "quantile"),
    [
        (50, 12, 24 / 38),  # s = 26 - 12 = 14 of 38
        (20, 4, 9 / 16),  # s = 11 - 4 = 7 of 16
        (20, 8, 9 / 12),  # s = 11 - 8 = 3 of 12
        (21, 4, 10 / 17),  # s = 11 - 4 = 7 of 17
        (4, 3, 0.0),  # they are the majority: s = 1 of 1
    ],
)
def test_how_far_colluders_go(n_clients, n_attackers, quantile):
    z = alie_z(n_clients, n_attackers)
    if quantile <= 0.5:
        assert z == 0.0
    else:
        assert 0.5 * (1 + math.erf(z / math.sqrt(2))) == pytest.approx(quantile, abs=1e-12)


def test_no_numbers_of_clients_are_too_odd():
    assert all(math.isfinite(alie_z(n, f)) for n in range(1, 30) for f in range(n + 1))
