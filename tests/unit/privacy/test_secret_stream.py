"""Random numbers from a secret key."""

import math

import numpy as np
import pytest

from fedlpp_cli.privacy.secret_stream import KEY_BYTES, SecretStream, new_key

KEY = bytes(range(KEY_BYTES))


def test_equal_keys_contexts_and_names_give_equal_numbers_and_nothing_else_does():
    drawn = SecretStream(KEY, "package").gaussians(9, "noise", 3, "layer")
    assert np.array_equal(SecretStream(KEY, "package").gaussians(9, "noise", 3, "layer"), drawn)
    others = [
        SecretStream(bytes(KEY_BYTES), "package").gaussians(9, "noise", 3, "layer"),
        SecretStream(KEY, "another").gaussians(9, "noise", 3, "layer"),
        SecretStream(KEY, "package").gaussians(9, "noise", 4, "layer"),
        SecretStream(KEY, "package").gaussians(9, "noise", 3, "head"),
    ]
    assert not any(np.isin(other, drawn).any() for other in others)


def test_keys_are_new_each_time():
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) == KEY_BYTES
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(b"short", "package")


def test_the_key_is_not_in_the_text_of_a_stream():
    assert repr(SecretStream(KEY, "package")) == "SecretStream(...)"


def test_its_digest_names_key_and_context_and_tells_neither():
    streams = [SecretStream(KEY, "package"), SecretStream(KEY, "other"), SecretStream(b"2" * KEY_BYTES, "package")]
    assert len({stream.digest for stream in streams}) == 3
    assert SecretStream(KEY, "package").digest == streams[0].digest
    assert KEY.hex() not in streams[0].digest


def test_gaussians_are_gaussian():
    drawn = SecretStream(KEY, "package").gaussians(400_001, "noise")
    assert drawn.shape == (400_001,)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    for limit in (0.5, 1.0, 2.0, 3.0):
        expected = math.erfc(limit / math.sqrt(2))
        assert abs((np.abs(drawn) > limit).mean() - expected) < 0.004
    assert abs(np.corrcoef(drawn[:200_000], drawn[200_001:])[0, 1]) < 0.01


def test_uniforms_are_uniform_and_never_one():
    drawn = SecretStream(KEY, "package").uniforms(100_000, "sample")
    assert 0 <= drawn.min() < 1e-3
    assert 1 - 1e-3 < drawn.max() < 1
    assert np.abs(np.histogram(drawn, bins=10, range=(0, 1))[0] - 10_000).max() < 500
