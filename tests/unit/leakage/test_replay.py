"""What a coalition computes from its updates, against the masters that the owner's own `aggregate` makes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.rounds import first_round

from fedlpp_cli import aggregate, pack, quantize
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import QuorumError, UsageError
from fedlpp_cli.leakage.averaging import mean_factors
from fedlpp_cli.leakage.closeness import closeness
from fedlpp_cli.leakage.intervals import read_bounds
from fedlpp_cli.leakage.replay import Round, carry, replay, replay_rounds, round_step
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec

SHAPES = {"m.lora_A": (4, 96), "m.lora_B": (64, 4), "head.bias": (7,)}
N_EXAMPLES = (3, 1, 2, 5)
N_ROUNDS = 3
ROUNDED = QuantSpec(bits="3")


def arrays(seed, size=1.0):
    draw = np.random.default_rng(seed)
    return {name: (size * draw.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def tensors(values):
    return {name: torch.from_numpy(value) for name, value in values.items()}


def play(folder: Path, spec: AggregateSpec):
    """Masters, oldest first, and what all clients together have of each round; proxies are rounded."""
    current, masters, rounds = first_round(folder, arrays(0)), [arrays(0)], []
    for number in range(N_ROUNDS):
        proxy_path = folder / f"proxy-{number}"
        quantize(current.master, out=proxy_path, spec=ROUNDED)
        pack(proxy_path, out=current.package, train=TrainSpec(steps=1), ledger=folder / "ledger")
        current.parents = {
            "package": (sha256_of_file(current.package / "manifest.json"),),
            "proxy": (sha256_of_file(proxy_path),),
        }
        updates = [arrays(100 * number + k, 0.1 * (k + 1)) for k in range(1, 5)]
        paths = current.answer(updates, N_EXAMPLES)
        target = folder / f"master-{number + 1}"
        aggregate(current.master, paths, packages=[current.package], out=target, spec=spec)
        order = sorted(range(len(paths)), key=lambda k: sha256_of_file(paths[k]))
        weights = client_weights(
            [N_EXAMPLES[k] for k in order], weighting=spec.weighting, max_examples=spec.max_examples
        )
        with TensorFile(proxy_path, ProxyHeader) as proxy, TensorFile(target, MasterHeader) as master:
            sent = {name: read_component(proxy, name) for name in SHAPES}
            masters.append({name: master.read(name).numpy() for name in SHAPES})
        rounds.append(Round(number, sent, [tensors(updates[k]) for k in order], weights, spec))
        current = current.next(target)
    return [tensors(values) for values in masters], rounds


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


SPECS = {
    "mean": AggregateSpec(),
    "by examples": AggregateSpec(weighting="examples", max_examples=4, server_learning_rate=0.7),
    "clipped": AggregateSpec(clip_norm=3.0),
    "to the median": AggregateSpec(clip_to_median=True),
    "median": AggregateSpec(rule="median"),
    "trimmed": AggregateSpec(rule="trimmed-mean", n_malicious=1),
    "krum": AggregateSpec(rule="krum"),
    "geometric median": AggregateSpec(rule="geometric-median"),
    "centered clipping": AggregateSpec(rule="centered-clipping"),
}
OTHER_SPECS = {
    "rule 2": AggregateSpec(update_rule=2),
    "rule 3": AggregateSpec(update_rule=3, server_learning_rate=0.6),
    "rule 4": AggregateSpec(update_rule=4, n_rounds=5, weighting="examples"),
    "momentum": AggregateSpec(server_optimizer="momentum"),
    "adam": AggregateSpec(server_optimizer="adam", server_learning_rate=0.1),
    "adagrad": AggregateSpec(server_optimizer="adagrad", server_learning_rate=0.1, rule="median"),
}


@pytest.mark.parametrize("name", SPECS)
def test_who_has_all_updates_and_the_start_has_the_owner_s_adapter_bit_for_bit(tmp_path, name):
    masters, rounds = play(tmp_path, SPECS[name])
    steps = [round_step(one.updates, one.weights, one.spec) for one in rounds]
    for number in range(N_ROUNDS + 1):
        assert_equal(replay(masters[0], steps[:number]), masters[number])
    assert_equal(replay_rounds(masters[0], rounds), masters[-1])
    assert closeness(replay(masters[0], steps), masters[-1]).revealed == 1.0


@pytest.mark.parametrize("name", OTHER_SPECS)
def test_so_it_is_with_other_update_rules_and_server_optimizers(tmp_path, name):
    masters, rounds = play(tmp_path, OTHER_SPECS[name])
    for number in range(1, N_ROUNDS + 1):
        assert_equal(replay_rounds(masters[0], rounds[:number]), masters[number])
    with pytest.raises(UsageError, match="update rule"):
        round_step(rounds[0].updates, rounds[0].weights, rounds[0].spec)


def test_who_starts_at_the_first_proxy_is_off_by_what_rounding_took_from_the_start(tmp_path):
    masters, rounds = play(tmp_path, AggregateSpec())
    steps = [round_step(one.updates, one.weights, one.spec) for one in rounds]
    found = replay(rounds[0].proxy, steps)
    for name in SHAPES:
        missing = masters[0][name].double() - rounds[0].proxy[name].double()
        assert missing.abs().max() > 0.01
        assert torch.allclose(masters[-1][name].double() - found[name].double(), missing, atol=1e-6)
    # Rounding the newest adapter costs as much as rounding the first; what came between is known.
    assert closeness(found, masters[-1]).error_a < 1.1 * closeness(rounds[-1].proxy, masters[-2]).error_a


@pytest.mark.parametrize("spec", [AggregateSpec(update_rule=2), AggregateSpec(update_rule=3)], ids=["2", "3"])
def test_with_rules_that_drop_the_residual_the_last_round_is_enough(tmp_path, spec):
    masters, rounds = play(tmp_path, spec)
    elsewhere = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    found = replay_rounds(elsewhere, rounds[-1:])
    for name, value in masters[-1].items():
        assert torch.allclose(found[name], value, atol=1e-6)


def test_a_part_of_the_clients_takes_its_own_for_all(tmp_path):
    masters, rounds = play(tmp_path, AggregateSpec())
    errors = []
    for n_members in range(1, 5):
        weights = client_weights([1] * n_members, weighting="equal", max_examples=None)
        steps = [round_step(one.updates[:n_members], weights, one.spec) for one in rounds]
        errors.append(closeness(replay(masters[0], steps), masters[-1]).error_a)
    assert errors[-1] == 0.0
    assert min(errors[:-1]) > 0.01


def test_updates_of_a_lower_rank_are_filled_up_with_zeros():
    low = {"m.lora_A": torch.ones(2, 6), "m.lora_B": torch.ones(5, 2)}
    high = {"m.lora_A": torch.ones(4, 6), "m.lora_B": torch.ones(5, 4)}
    found = round_step([low, high], (0.5, 0.5), AggregateSpec())
    assert found["m.lora_A"].mean(1).tolist() == [1.0, 1.0, 0.5, 0.5]
    assert found["m.lora_B"].mean(0).tolist() == [1.0, 1.0, 0.5, 0.5]
    start = {"m.lora_A": torch.zeros(5, 6), "m.lora_B": torch.zeros(5, 5)}
    assert replay(start, [found])["m.lora_A"].mean(1).tolist() == [1.0, 1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AggregateSpec(rule="fltrust"), "only the owner has"),
        (AggregateSpec(client_noise_multiplier=1.0, expected_clients=2, clip_norm=1.0), "secret"),
        (AggregateSpec(combine="svd"), "--combine svd is not replayed"),
    ],
    ids=["fltrust", "noise", "products"],
)
def test_what_is_not_replayed_is_named(spec, words):
    updates = [tensors(arrays(1)), tensors(arrays(2))]
    with pytest.raises(UsageError, match=words):
        round_step(updates, (0.5, 0.5), spec)


def test_too_few_updates_for_the_rule_are_too_few_for_a_coalition():
    with pytest.raises(QuorumError, match="at least"):
        round_step([tensors(arrays(1))], (1.0,), AggregateSpec(rule="trimmed-mean", n_malicious=1))


def test_bounds_are_read_from_a_proxy_s_file(tmp_path):
    current = first_round(tmp_path, arrays(0))
    quantize(current.master, out=tmp_path / "proxy", spec=ROUNDED)
    with TensorFile(tmp_path / "proxy", ProxyHeader) as proxy:
        for name, value in tensors(arrays(0)).items():
            low, high = read_bounds(proxy, name)
            assert ((low <= value) & (value <= high)).all()
            assert (high - low).mean() < 1.0


def test_snapshots_that_are_carried_along_all_show_the_newest_adapter(tmp_path):
    """Each is off by its own rounding then, and their mean by less."""
    masters, rounds = play(tmp_path, AggregateSpec())
    steps = [round_step(one.updates, one.weights, one.spec) for one in rounds]
    for carried in (carry(masters, steps), carry(masters[:-1], steps)):
        for found in carried:
            assert closeness(found, masters[-1]).error_product < 1e-6
    proxies = carry([one.proxy for one in rounds], steps)
    errors = [closeness(found, masters[-1]).error_a for found in proxies]
    assert closeness(mean_factors(proxies, (1 / 3,) * 3), masters[-1]).error_a < 0.8 * min(errors)
    with pytest.raises(ValueError, match="3 steps for 2 snapshots"):
        carry(masters[:2], steps)
