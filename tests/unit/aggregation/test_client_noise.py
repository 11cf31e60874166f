"""The noise of a round with privacy for clients, and the clipping norm that moves."""

import math
from itertools import pairwise

import numpy as np
import pytest

from fedlpp_cli.aggregation.client_noise import ClientNoise, update_noise_multiplier
from fedlpp_cli.errors import GateError
from fedlpp_cli.privacy.secret_stream import SecretStream
from fedlpp_cli.records.specs import AggregateSpec

KEY = bytes(range(32))
# So little that formulas can be seen.
ALMOST_NONE = {"client_noise_multiplier": 1e-12, "clipped_count_stddev": 1e-9, "clip_quantile": 0.5}


def noise(clip_norm=1.0, *, key=KEY, context="a round", **fields):
    fields = {"client_noise_multiplier": 1.0, "expected_clients": 4, **fields}
    spec = AggregateSpec(clip_norm=clip_norm, **fields)
    return ClientNoise(spec, clip_norm, SecretStream(key, context))


def drawn(source, component="a.lora_A", shape=(20_000,)):
    values = np.zeros(shape)
    source.add_to(component, values)
    return values


@pytest.mark.parametrize(("sigma", "clip_norm", "expected"), [(1.0, 0.5, 4), (3.0, 2.0, 10)])
def test_its_standard_deviation_is_z_times_c_over_m(sigma, clip_norm, expected):
    source = noise(clip_norm, client_noise_multiplier=sigma, expected_clients=expected)
    found = drawn(source, shape=(200, 1000))
    wanted = sigma * clip_norm / expected
    assert source.stddev == wanted
    # Of 200,000 draws these are more than 6 standard errors.
    assert found.std() == pytest.approx(wanted, rel=0.01)
    assert abs(found.mean()) < 0.015 * wanted
    assert np.mean(np.abs(found) < wanted) == pytest.approx(math.erf(2**-0.5), abs=0.007)


def test_it_is_added_and_differs_by_component_piece_key_and_context():
    start = np.arange(6.0).reshape(2, 3)
    values = start.copy()
    noise().add_to("a", values)
    assert np.allclose(values - start, drawn(noise(), "a", (2, 3)), rtol=0, atol=1e-12)
    whole = drawn(noise(), "a", (3 * 2**16 + 5,))
    assert np.array_equal(whole, drawn(noise(), "a", (3 * 2**16 + 5,)))
    others = [
        drawn(noise(), "b"), drawn(noise(key=b"k" * 32), "a"), drawn(noise(context="other updates"), "a"),
        whole[2**16 :],
    ]  # fmt: skip
    for other in others:
        n = min(len(other), 20_000)
        assert abs(np.corrcoef(whole[:n], other[:n])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("norms", "expected", "moved"),
    [
        ([2.0, 3.0, 4.0, 5.0], 4, math.exp(0.2 * 0.5)),  # all are longer than C: it grows
        ([0.1, 0.2, 0.3, 1.0], 4, math.exp(-0.2 * 0.5)),  # all are within it: it falls
        ([0.5, 0.5, 2.0, 2.0], 4, 1.0),
        ([0.5, 2.0, 2.0, 2.0], 4, math.exp(0.2 * 0.25)),
        ([2.0, 2.0], 4, math.exp(0.2 * 0.25)),  # b is 1/2 - 1/4: who is not there says neither
    ],
)
def test_the_clipping_norm_moves_the_right_way(norms, expected, moved):
    found = noise(1.0, expected_clients=expected, **ALMOST_NONE).next_clip_norm(norms)
    assert found == pytest.approx(moved, rel=1e-5)


def test_one_client_more_moves_the_count_by_one_half():
    """What the count costs rests on it: 2 s is its noise multiplier."""
    source = noise(1.0, expected_clients=10, **ALMOST_NONE)
    for others in ([], [0.5] * 3, [0.5, 2.0, 2.0], [2.0] * 10):
        for norm in (0.5, 2.0):
            logs = [math.log(source.next_clip_norm(norms)) for norms in (others, [*others, norm])]
            assert abs(logs[1] - logs[0]) == pytest.approx(0.2 * 0.5 / 10, abs=2e-5)


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 0.05), (0.5, 20.0), (0.8, 1.0)])
def test_it_comes_to_the_quantile_and_stays_near(quantile, start):
    numbers = np.random.default_rng(5)
    clip_norm, below = start, []
    for number in range(150):
        norms = numbers.lognormal(sigma=0.5, size=200)
        source = noise(clip_norm, context=str(number), expected_clients=200, clip_quantile=quantile)
        clip_norm = source.next_clip_norm(list(norms))
        below.append(np.mean(norms <= clip_norm))
    assert abs(np.mean(below[-50:]) - quantile) < 0.03
    assert max(abs(share - quantile) for share in below[-50:]) < 0.15


def test_the_count_is_paid_for_by_more_noise_on_updates():
    fixed, moving = (noise(expected_clients=100, clip_quantile=quantile) for quantile in (None, 0.5))
    assert update_noise_multiplier(fixed.spec) == 1.0
    # s is 100 / 20, so 2 s = 10.
    assert update_noise_multiplier(moving.spec) == pytest.approx((1 - 10**-2) ** -0.5)
    assert update_noise_multiplier(moving.spec) ** -2 + 10**-2 == pytest.approx(1.0)
    assert moving.stddev == pytest.approx(update_noise_multiplier(moving.spec) / 100)
    assert fixed.next_clip_norm([1.0]) is None


def test_more_noise_is_asked_of_the_count_and_steps_are_bounded():
    for few in ({"expected_clients": 10}, {"clipped_count_stddev": 0.5}):
        with pytest.raises(ValueError, match=r"clipped_count_stddev: 0\.5, more than half of"):
            noise(clip_quantile=0.5, **few)
    source = noise(clip_quantile=0.5, clipped_count_stddev=1.0, clip_learning_rate=1e4)
    with pytest.raises(GateError, match="the clipping norm would be exp"):
        source.next_clip_norm([2.0] * 4)


def test_the_key_is_not_shown():
    assert KEY.hex() not in repr(noise())
    assert repr(KEY) not in repr(noise())


def test_the_norm_is_told_in_six_digits():
    norms = [noise(context=str(n), expected_clients=20, clip_quantile=0.5).next_clip_norm([1.0] * 20) for n in range(9)]
    assert all(float(f"{norm:.6g}") == norm for norm in norms)
    assert all(one != other for one, other in pairwise(norms))
