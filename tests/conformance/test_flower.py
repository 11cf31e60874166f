"""`aggregate` computes what Flower's strategies compute, wherever both have the formula.

Ours are real artifacts and the real command; theirs are the strategies of `flwr.serverapp`, run by their own `start`
in an environment of their own. Both get the same updates; Flower's clients answer with whole models, so theirs is the
model that they were sent plus the update. Values are chosen such that this sum is exact in float32.

Tolerance is what float32 takes. Where Flower computes in float64, our result is the same number rounded once, to the
float32 of a master. Where it computes in float32, as its apps do with float32 models, each of its n products and sums
is rounded. Where a state lies in our master between rounds, it is rounded there, in every round.

What cannot agree, and is not compared:

- bulyan: Flower takes, of each value, the n - 4f nearest to the median, as the paper; ours trims f from either end.
  Both select the same n - 2f clients first, and that is compared.
- krum and multi-krum where two scores are equal: Flower takes the first to answer, we the smallest sha256. With f = 0
  and three clients the two nearest ones always have equal scores; random updates with f > 0 do not.
- multi-krum by examples: Flower weights those it selected by examples, ours count alike; here they have equal numbers.
- geometric-median, centered-clipping, fltrust: this Flower has none of them. Update rules 2 to 4 and rounded proxies:
  it has no proxies. Its FedProx is a term in the clients' loss, which its strategy does not compute.
- how second moments start, and bias: see `OPTIMIZERS`.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.forge import read_all
from support.rounds import first_round

from fedlpp_cli.cli.app import app

HERE = Path(__file__).parent
FLOWER = HERE.parents[1] / ".venv-flower"
# As the Makefile makes it: the file is there when pip has finished.
pytestmark = pytest.mark.skipif(
    not any(FLOWER.glob(".ready-*")),
    reason="no Flower here: `make conformance` installs it into .venv-flower, since it pins a typer below ours",
)
EPSILON = 2.0**-24


def draw(seed, n_clients, n_rounds=1):
    """Theta, and by round and client an update: float32, of shapes that the seed chooses; exact when added."""
    random = np.random.default_rng(seed)
    rank, wide, deep, labels = (int(n) for n in random.integers([2, 3, 3, 2], [5, 40, 40, 5]))
    shapes = {
        "layers.0.proj.lora_A": (rank, wide), "layers.0.proj.lora_B": (deep, rank),
        "layers.1.proj.lora_A": (rank, deep), "layers.1.proj.lora_B": (wide, rank),
        "head.weight": (labels, wide), "head.bias": (labels,),
    }  # fmt: skip

    def grid(shape, bits, limit):
        return (random.integers(-limit, limit + 1, shape) * 2.0**-bits).astype(np.float32)

    theta = {name: grid(shape, 10, 2**10) for name, shape in shapes.items()}
    # Clients have something in common, so that distances between them differ.
    common = [{name: grid(shape, 18, 2**12) for name, shape in shapes.items()} for _ in range(n_rounds)]
    rounds = [
        [{name: one[name] + grid(shape, 20, 2**14) for name, shape in shapes.items()} for _ in range(n_clients)]
        for one in common
    ]
    return theta, rounds


@pytest.fixture
def flower(tmp_path):
    """What a strategy of Flower makes of updates: round by round the model, float64, and the clients it took."""

    def run(strategy, theta, rounds, *, n_examples, dtype="float64", second_moment=None, **options):
        settings = {
            "strategy": strategy, "options": options, "dtype": dtype, "n_examples": n_examples, "names": list(theta),
            "n_rounds": len(rounds), "second_moment": second_moment,
        }  # fmt: skip
        job = {f"theta/{name}": value for name, value in theta.items()}
        for number, updates in enumerate(rounds):
            for client, values in enumerate(updates):
                job |= {f"{number}/{client}/{name}": value for name, value in values.items()}
        np.savez(tmp_path / "job.npz", settings=json.dumps(settings), **job)
        command = [FLOWER / "bin" / "python", HERE / "flower_strategies.py", tmp_path / "job.npz", tmp_path / "out.npz"]
        # Of our own environment nothing may be found there; Flower reports its use to its makers unless told not to.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"FLWR_TELEMETRY_ENABLED": "0", "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as found:
            return [
                ({name: found[f"{number}/{name}"].astype(np.float64) for name in theta}, set(found[f"{number}/chosen"]))
                for number in range(len(rounds))
            ]

    return run


@pytest.fixture
def fedlpp(tmp_path, runner):
    """What `fedlpp aggregate` makes of them: the same. Options may differ from round to round."""

    def run(theta, rounds, *options, n_examples, each_round=lambda number: ()):
        current, found = first_round(tmp_path, theta), []
        for number, updates in enumerate(rounds):
            current.send()
            target = tmp_path / f"master-{number + 1}"
            call = [
                "aggregate", current.master, *current.answer(updates, n_examples), "--package", current.package,
                "--out", target, "--json", *options, *each_round(number),
            ]  # fmt: skip
            result = runner.invoke(app, [str(one) for one in call])
            assert result.exit_code == 0, result.output
            clients = json.loads(result.stdout)["data"]["clients"]
            tensors = read_all(target)
            model = {name: tensors[name].double().numpy() for name in theta}
            found.append((model, {int(one["client"][1:]) for one in clients if one["weight"]}))
            current = current.next(target)
        return found

    return run


def check_equal(ours, theirs, tolerance):
    """`tolerance`: of a value, from what it is to how far apart the two may be."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape
        assert (np.abs(ours[name] - value) <= tolerance(np.abs(value))).all(), name


def rounded_once(value):
    """The float32 of a number; 1e-14 is for what float64 loses on the way to it."""
    return EPSILON * value + 1e-14


def rounded_often(n_clients):
    """Sums of that many float32 products, each rounded, of numbers up to 1.1."""
    return lambda value: (n_clients + 2) * EPSILON * 1.1 + EPSILON * value


def tolerance_for(dtype, n_clients):
    return rounded_once if dtype == "float64" else rounded_often(n_clients)


def numbers_of_examples(seed, n_clients):
    return [int(n) for n in np.random.default_rng(seed + 1).integers(1, 500, n_clients)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("seed", "n_clients"), [(0, 1), (1, 2), (2, 5), (3, 16)])
def test_fed_avg_is_the_mean_by_examples(flower, fedlpp, dtype, seed, n_clients):
    theta, rounds = draw(seed, n_clients)
    n_examples = numbers_of_examples(seed, n_clients)
    options = {"min_train_nodes": 1, "min_available_nodes": 1}
    ((theirs, _),) = flower("FedAvg", theta, rounds, n_examples=n_examples, dtype=dtype, **options)
    ((ours, _),) = fedlpp(theta, rounds, "--weighting", "examples", n_examples=n_examples)
    check_equal(ours, theirs, tolerance_for(dtype, n_clients))


def test_fed_avg_of_equal_numbers_is_our_default(flower, fedlpp):
    theta, rounds = draw(4, 6)
    ((theirs, _),) = flower("FedAvg", theta, rounds, n_examples=[7] * 6)
    ((ours, _),) = fedlpp(theta, rounds, n_examples=numbers_of_examples(4, 6))
    check_equal(ours, theirs, rounded_once)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("seed", "n_clients"), [(10, 2), (11, 3), (12, 8), (13, 9)])
def test_fed_median_is_the_median(flower, fedlpp, dtype, seed, n_clients):
    """Of an even number the mean of the middle two."""
    theta, rounds = draw(seed, n_clients)
    n_examples = numbers_of_examples(seed, n_clients)
    ((theirs, _),) = flower("FedMedian", theta, rounds, n_examples=n_examples, dtype=dtype)
    ((ours, _),) = fedlpp(theta, rounds, "--rule", "median", n_examples=n_examples)
    check_equal(ours, theirs, tolerance_for(dtype, 2))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("seed", "n_clients", "f"), [(20, 3, 1), (21, 5, 2), (22, 8, 1), (23, 10, 3)])
def test_fed_trimmed_avg_is_the_trimmed_mean(flower, fedlpp, dtype, seed, n_clients, f):
    """Flower is told a share and cuts int(share x n) from each end; a quarter more than f / n is safe to round."""
    theta, rounds = draw(seed, n_clients)
    n_examples = numbers_of_examples(seed, n_clients)
    ((theirs, _),) = flower(
        "FedTrimmedAvg", theta, rounds, n_examples=n_examples, dtype=dtype, beta=(f + 0.25) / n_clients
    )
    ((ours, _),) = fedlpp(theta, rounds, "--rule", "trimmed-mean", "--n-malicious", f, n_examples=n_examples)
    check_equal(ours, theirs, tolerance_for(dtype, n_clients))


SELECTIONS = [(30, 5, 1), (31, 7, 2), (32, 9, 1), (33, 11, 4), (34, 12, 3)]


@pytest.mark.parametrize(("seed", "n_clients", "f"), SELECTIONS)
def test_krum_takes_the_same_client_as_it_is(flower, fedlpp, seed, n_clients, f):
    theta, rounds = draw(seed, n_clients)
    n_examples = numbers_of_examples(seed, n_clients)
    ((theirs, their_choice),) = flower("Krum", theta, rounds, n_examples=n_examples, num_malicious_nodes=f)
    ((ours, our_choice),) = fedlpp(theta, rounds, "--rule", "krum", "--n-malicious", f, n_examples=n_examples)
    assert our_choice == their_choice
    assert len(our_choice) == 1
    check_equal(ours, theirs, lambda _: 0)


@pytest.mark.parametrize(("seed", "n_clients", "f"), SELECTIONS)
def test_multi_krum_takes_the_same_clients(flower, fedlpp, seed, n_clients, f):
    """Flower is told how many to take; ours are n - f."""
    theta, rounds = draw(seed, n_clients)
    ((theirs, their_choice),) = flower(
        "MultiKrum", theta, rounds, n_examples=[3] * n_clients, num_malicious_nodes=f, num_nodes_to_select=n_clients - f
    )
    ((ours, our_choice),) = fedlpp(
        theta, rounds, "--rule", "multi-krum", "--n-malicious", f, n_examples=[3] * n_clients
    )
    assert our_choice == their_choice
    assert len(our_choice) == n_clients - f
    check_equal(ours, theirs, rounded_once)


@pytest.mark.parametrize(("seed", "n_clients", "f"), [(40, 7, 1), (41, 12, 2)])
def test_bulyan_takes_the_same_clients_and_another_mean_of_them(flower, fedlpp, seed, n_clients, f):
    theta, rounds = draw(seed, n_clients)
    n_examples = numbers_of_examples(seed, n_clients)
    ((theirs, their_choice),) = flower("Bulyan", theta, rounds, n_examples=n_examples, num_malicious_nodes=f)
    ((ours, our_choice),) = fedlpp(theta, rounds, "--rule", "bulyan", "--n-malicious", f, n_examples=n_examples)
    assert our_choice == their_choice
    assert len(our_choice) == n_clients - 2 * f
    for name, value in theirs.items():
        models = np.sort([theta[name] + rounds[0][k][name].astype(np.float64) for k in our_choice], axis=0)
        for found in (ours[name], value):
            assert (found >= models[0] - EPSILON).all()
            assert (found <= models[-1] + EPSILON).all()
    assert any((np.abs(ours[name] - theirs[name]) > 1e-4).any() for name in ours)


@pytest.mark.parametrize(("rate", "beta"), [(0.5, 0.0), (1.0, 0.9), (0.3, 0.7)])
def test_fed_avg_m_is_momentum(flower, fedlpp, rate, beta):
    """Nothing had to be set up: both start at 0, and m = beta m + D. Without momentum it is update rule 1."""
    theta, rounds = draw(50, 4, n_rounds=4)
    n_examples = numbers_of_examples(50, 4)
    theirs = flower("FedAvgM", theta, rounds, n_examples=n_examples, server_learning_rate=rate, server_momentum=beta)
    optimizer = ("--server-optimizer", "momentum", "--beta1", beta) if beta else ()
    ours = fedlpp(
        theta, rounds, "--weighting", "examples", "--server-learning-rate", rate, *optimizer, n_examples=n_examples
    )
    check_rounds(ours, theirs)


def check_rounds(ours, theirs):
    """After r rounds a value has gone through r float32 roundings in our masters, and so has its state."""
    for number, ((our_model, _), (their_model, _)) in enumerate(zip(ours, theirs, strict=True), start=1):
        largest = max(np.abs(value).max() for value in their_model.values())
        limit = 2 * number * number * EPSILON * largest
        check_equal(our_model, their_model, lambda _, limit=limit: limit)


def same_rate(number, rate, beta1, beta2):
    return rate


def flowers_adam_rate(number, rate, beta1, beta2):
    """Flower's FedAdam multiplies the rate in round t, from 1, with this; so the owner gives ours that rate."""
    power = number + 2
    return rate * (1 - beta2**power) ** 0.5 / (1 - beta1**power)


# Ours are those of the paper (Reddi et al. 2021, arXiv 2003.00295). Flower differs in two things, and each is set up
# such that the formula is one:
#
# - its v starts at 0, the paper's at tau^2: `v_t` of its strategy is filled with tau^2 before the first round;
# - its FedAdam corrects bias: our `--server-learning-rate` of each round is the one that comes out of its correction.
#
# Its FedAdagrad has no momentum: `--beta1 0`.
OPTIMIZERS = {
    "adam": ("FedAdam", {"beta1": 0.9, "beta2": 0.99}, flowers_adam_rate),
    "yogi": ("FedYogi", {"beta1": 0.8, "beta2": 0.95}, same_rate),
    "adagrad": ("FedAdagrad", {"beta1": 0.0}, same_rate),
}


def run_both(flower, fedlpp, optimizer, seed, *, rate, tau, second_moment):
    strategy, betas, rate_of = OPTIMIZERS[optimizer]
    theta, rounds = draw(seed, 5, n_rounds=4)
    n_examples = numbers_of_examples(seed, 5)
    theirs = flower(
        strategy, theta, rounds, n_examples=n_examples, second_moment=second_moment, eta=rate, tau=tau,
        **({} if optimizer == "adagrad" else {"beta_1": betas["beta1"], "beta_2": betas["beta2"]}),
    )  # fmt: skip
    beta2 = betas.get("beta2", 0.0)
    ours = fedlpp(
        theta, rounds, "--weighting", "examples", "--server-optimizer", optimizer, "--tau", tau,
        *(word for name, value in betas.items() for word in (f"--{name}", value)),
        each_round=lambda n: ("--server-learning-rate", repr(rate_of(n, rate, betas["beta1"], beta2))),
        n_examples=n_examples,
    )  # fmt: skip
    return ours, theirs


@pytest.mark.parametrize(("seed", "rate", "tau"), [(60, 0.1, 1e-3), (61, 0.03, 1e-2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_adaptive_optimizers_from_the_papers_start(flower, fedlpp, optimizer, seed, rate, tau):
    check_rounds(*run_both(flower, fedlpp, optimizer, seed, rate=rate, tau=tau, second_moment=tau**2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_flowers_own_start_is_another_one(flower, fedlpp, optimizer):
    """What was set up above is needed: tau is as large here as the numbers, so that its square shows."""
    ours, theirs = run_both(flower, fedlpp, optimizer, 62, rate=0.1, tau=0.02, second_moment=None)
    with pytest.raises(AssertionError):
        check_rounds(ours, theirs)
