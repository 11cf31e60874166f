"""Several rounds with rounded updates: what feedback is worth, and the same by make."""

import pytest
from support.forge import read_all, sha256_of
from support.parties import Federation

from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec, TrainSpec

N_ROUNDS = 8
# Small steps of plain descent from full-precision proxies: what differs in the end is what rounding did.
STEPS = TrainSpec(
    steps=2, batch_size=4, optimizer="sgd", learning_rate=0.1, weight_decay=0.0, max_grad_norm=0.0
)  # fmt: skip


def distance(one, other):
    return sum((one[name].double() - other[name].double()).square().sum().item() for name in one) ** 0.5


@pytest.fixture
def play(llama, tmp_path):
    """The master after some rounds."""

    def play(name, round_updates, *, keep_states=False):
        federation = Federation(
            tmp_path / name, llama, quantize=QuantSpec(bits="full"), train=STEPS, round_updates=round_updates,
            keep_states=keep_states,
        )  # fmt: skip
        federation.play(N_ROUNDS)
        return read_all(federation.master(N_ROUNDS)), read_all(federation.master(0))

    return play


@pytest.mark.slow
def test_with_feedback_rounded_updates_end_close_to_full_ones(play):
    """Seen here, as a share of the way: 4 bits 0.020 with and 0.048 without feedback, ternary 0.18 and 0.44."""
    full, start = play("full", FULL_PRECISION)
    way = distance(full, start)
    for bits, bound in (("4", 0.04), ("ternary", 0.3)):
        kept, _ = play(f"{bits}-kept", QuantSpec(bits=bits), keep_states=True)
        lost, _ = play(f"{bits}-lost", QuantSpec(bits=bits))
        assert distance(kept, full) < bound * way
        assert distance(kept, full) < 0.7 * distance(lost, full)


def test_a_state_changes_nothing_where_nothing_is_rounded(llama, tmp_path):
    """Full precision, with states and without: the same bytes."""
    masters = []
    for name, keep_states in (("kept", True), ("plain", False)):
        federation = Federation(tmp_path / name, llama, keep_states=keep_states)
        federation.play(2)
        masters.append(sha256_of(federation.master(2)))
    assert masters[0] == masters[1]
