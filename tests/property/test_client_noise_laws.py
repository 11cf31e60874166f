"""What privacy for clients rests on: one client more or less moves the sum by the clipping norm at most."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.forge import read_all
from support.rounds import first_round

from fedlpp_cli import aggregate
from fedlpp_cli.records.specs import AggregateSpec

N_VALUES = 40


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scales=st.lists(st.integers(-4, 4), min_size=2, max_size=5),
    log_clip=st.integers(-3, 3),
    expected=st.integers(1, 30),
)
def test_without_one_client_the_sum_moves_by_the_clipping_norm_at_most(seed, scales, log_clip, expected):
    numbers, clip_norm = np.random.default_rng(seed), 10.0**log_clip
    rows = [(numbers.normal(size=N_VALUES) * 10.0**scale).astype(np.float32) for scale in scales]
    # Noise that cannot be seen.
    spec = AggregateSpec(clip_norm=clip_norm, client_noise_multiplier=1e-12, expected_clients=expected)
    with tempfile.TemporaryDirectory() as folder:
        opened = first_round(Path(folder), {"head.bias": np.zeros(N_VALUES, np.float32)})
        opened.send()
        answers = opened.answer([{"head.bias": row} for row in rows], [1] * len(rows))

        def total(paths, name):
            out = Path(folder) / name
            aggregate(opened.master, paths, packages=[opened.package], out=out, spec=spec, noise_key=b"k" * 32)
            return expected * read_all(out)["head.bias"].double().numpy()

        whole = total(answers, "all")
        for number in range(len(rows)):
            moved = np.linalg.norm(whole - total(answers[:number] + answers[number + 1 :], f"without-{number}"))
            own = np.linalg.norm(rows[number].astype(np.float64))
            # The sum has been rounded to float32.
            slack = 2**-22 * np.linalg.norm(whole) + 1e-30
            assert abs(moved - min(clip_norm, own)) <= 2 * slack + 1e-6 * clip_norm
            assert moved <= clip_norm * (1 + 1e-6) + 2 * slack
