"""SCAFFOLD on quadratics whose optima are known, through the training loop and the owner's formula."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from fedlpp_cli.aggregation.control_variates import ControlStep
from fedlpp_cli.errors import NotFiniteError
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.control_variates import ControlVariates, corrections, own_after
from fedlpp_cli.training.gradients import MeanGradient
from fedlpp_cli.training.loop import train
from fedlpp_cli.training.schedule import learning_rate_factor, learning_rate_sum

SGD = TrainSpec(
    steps=10, batch_size=1, optimizer="sgd", learning_rate=0.1, weight_decay=0.0, max_grad_norm=0.0,
    control_variates=True,
)  # fmt: skip
N_CLIENTS, SIZE = 4, 8


class Point(nn.Module):
    """A model that is one point; `unused` is trained too, and nothing depends on it."""

    device = torch.device("cpu")

    def __init__(self, start):
        super().__init__()
        self.x, self.unused = nn.Parameter(start["x"].clone()), nn.Parameter(start["unused"].clone())


class Adapted:
    def __init__(self, start):
        self.model = Point(start)
        self.parameters = {"x": self.model.x, "unused": self.model.unused}

    def let_train(self, components):
        assert set(components) == set(self.parameters)

    def logits(self, batch):
        return self.model.x


class Quadratic:
    """Loss `h / 2 (x - t)^2`, summed over values. One client's optimum is t, that of all the mean of t by h."""

    spec = TaskSpec(kind="seq-cls", labels=("a", "b"))

    def __init__(self, h, t):
        self.h, self.t = h, t

    def collate(self, examples):
        return {"labels": torch.tensor([example.labels for example in examples])}

    def n_targets(self, labels):
        return 1

    def loss(self, logits, labels):
        return (self.h / 2 * (logits - self.t).square()).sum()


@pytest.fixture(scope="module")
def clients():
    """Curvatures between 0.2 and 3 and optima far apart: K local steps of different clients end in different places."""
    draw = torch.Generator().manual_seed(3)
    return [
        Quadratic(0.2 + 2.8 * torch.rand(SIZE, generator=draw), 3 * torch.randn(SIZE, generator=draw))
        for _ in range(N_CLIENTS)
    ]


def optimum(clients):
    return sum(one.h * one.t for one in clients) / sum(one.h for one in clients)


def start():
    return {"x": torch.full((SIZE,), 4.0), "unused": torch.zeros(2)}


def play(clients, spec, n_rounds, *, n_chosen=N_CLIENTS, correct=True, sent=FULL_PRECISION):
    """The owner's x, its c and the clients' own after some rounds; a few clients drawn for each, c sent rounded."""
    draw, chosen = torch.Generator().manual_seed(0), range(len(clients))
    x, c, owns = start(), None, dict.fromkeys(range(len(clients)))
    for number in range(n_rounds):
        if n_chosen < len(clients):
            chosen = torch.randperm(len(clients), generator=draw)[:n_chosen].tolist()
        updates, seen = [], c and {name: round_tensor(value, sent, name=name) for name, value in c.items()}
        for k in chosen:
            adapted = Adapted(x)
            added = corrections(owns[k], seen) if correct else {}
            examples = [Example((0,), 0, was_cut=False)]
            gradient = MeanGradient(adapted, clients[k], spec, corrections=added)
            train(adapted, clients[k], examples, spec, labels=("f", number, k), gradient=gradient)
            updates.append({name: value.detach() - x[name] for name, value in adapted.parameters.items()})
            owns[k] = own_after(owns[k], seen, updates[-1], learning_rate_sum(spec, spec.steps))
        step = ControlStep(len(updates), len(clients), len(clients), learning_rate_sum(spec, spec.steps))
        means = {name: sum(update[name].double() for update in updates) / len(updates) for name in x}
        zeros = {name: torch.zeros_like(value) for name, value in x.items()}
        before, went = c or zeros, seen or zeros
        c = {name: step.next_value(before[name].double(), went[name].double(), means[name]).float() for name in x}
        x = {name: (x[name].double() + means[name]).float() for name in x}
    return x, c, owns


def test_scaffold_ends_at_the_optimum_of_all_and_averaging_does_not(clients):
    """Ten local steps each. Averaging stands still where clients' ways cancel, and that is somewhere else."""
    best = optimum(clients)
    x, c, owns = play(clients, SGD, 30)
    assert (x["x"] - best).abs().max() < 1e-4
    assert c["x"].abs().max() < 1e-4  # no way leads on
    assert max(own["x"].abs().max() for own in owns.values()) > 1  # though each client's own would
    plain = [play(clients, SGD, n_rounds, correct=False)[0]["x"] for n_rounds in (15, 25)]
    assert (plain[0] - plain[1]).abs().max() < 1e-4  # it has come to rest
    assert (plain[1] - best).abs().max() > 0.1


@pytest.mark.parametrize(
    "options",
    [{"schedule": "cosine", "warmup": 0.3, "learning_rate": 0.2}, {"schedule": "linear"}, {"max_grad_norm": 16.0}],
    ids=str,
)
def test_it_does_with_rates_that_change_and_with_clipping_that_ends(clients, options):
    x, *_ = play(clients, replace(SGD, **options), 30)
    assert (x["x"] - optimum(clients)).abs().max() < 1e-4


@pytest.mark.parametrize("bits", ["3", "ternary"])
def test_it_does_where_the_owners_is_rounded_on_its_way(clients, bits):
    """Each round tells the next one what was missing, and what rounding takes away gets small with c."""
    x, c, owns = play(clients, SGD, 25, sent=QuantSpec(bits=bits))
    assert (x["x"] - optimum(clients)).abs().max() < 1e-4
    assert torch.allclose(c["x"], torch.stack([own["x"] for own in owns.values()]).mean(0), atol=1e-4)


def test_it_does_with_few_clients_in_each_round(clients):
    x, c, owns = play(clients, SGD, 50, n_chosen=2)
    assert (x["x"] - optimum(clients)).abs().max() < 1e-3
    kept = [own["x"] for own in owns.values()]
    assert torch.allclose(c["x"], torch.stack(kept).mean(0), atol=1e-4)


@pytest.mark.parametrize("n_rounds", [1, 2, 7])
def test_the_owners_is_the_mean_of_the_clients_own(clients, n_rounds):
    _, c, owns = play(clients, replace(SGD, schedule="linear", max_grad_norm=2.0), n_rounds)
    for name in c:
        mean = torch.stack([own[name].double() for own in owns.values()]).mean(0)
        assert torch.allclose(c[name].double(), mean, atol=n_rounds * 2e-6, rtol=0)


def by_hand(one, spec, x, c, own):
    """The paper's algorithm 1 with option II in float64, gradients clipped first; y, and the mean of the gradients."""
    h, t, y = one.h.double().numpy(), one.t.double().numpy(), x.copy()
    rates = [spec.learning_rate * learning_rate_factor(spec, step, spec.steps) for step in range(spec.steps)]
    gradients = []
    for rate in rates:
        g = h * (y - t)
        if spec.max_grad_norm:
            g = g * min(1.0, spec.max_grad_norm / np.linalg.norm(g))
        gradients.append(g)
        y = y - rate * (g - own + c)
    return y, own - c + (x - y) / sum(rates), np.average(gradients, axis=0, weights=rates)


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup": 0.2}, {"max_grad_norm": 1.5}], ids=str)
def test_steps_and_variates_are_those_of_the_paper(clients, options):
    """And an own variate is the mean gradient of a round, whatever it was before; clipped, it keeps to the limit."""
    spec, draw = replace(SGD, **options), torch.Generator().manual_seed(1)
    x, c, own = (torch.randn(SIZE, generator=draw) for _ in range(3))
    adapted, none = Adapted({"x": x, "unused": torch.zeros(2)}), {"unused": torch.zeros(2)}
    shared, mine = {"x": c, **none}, {"x": own, **none}
    gradient = MeanGradient(adapted, clients[0], spec, corrections=corrections(mine, shared))
    train(adapted, clients[0], [Example((0,), 0, was_cut=False)], spec, labels=("f", 0, "a"), gradient=gradient)
    expected, after, mean = by_hand(clients[0], spec, *(value.double().numpy() for value in (x, c, own)))
    found = adapted.parameters["x"].detach()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    kept = own_after(mine, shared, {"x": found - x}, learning_rate_sum(spec, spec.steps))["x"]
    np.testing.assert_allclose(kept.numpy(), after, atol=1e-5)
    np.testing.assert_allclose(kept.numpy(), mean, atol=1e-5)
    if spec.max_grad_norm:
        assert kept.norm() < spec.max_grad_norm * (1 + 1e-5)


def test_without_corrections_no_bit_changes(clients):
    """As before there was any of this, and as in a first round, when all variates are zeros that nobody has sent."""
    ends = []
    for added in (None, corrections(None, None)):
        adapted = Adapted(start())
        gradient = None if added is None else MeanGradient(adapted, clients[0], SGD, corrections=added)
        train(adapted, clients[0], [Example((0,), 0, was_cut=False)], SGD, labels=("f", 0, "a"), gradient=gradient)
        ends.append(adapted.parameters["x"].detach())
    assert torch.equal(*ends)


def test_a_correction_is_rounded_once():
    c, own = {"x": torch.tensor([1e8, 1.0])}, {"x": torch.tensor([1e8 - 8, 1e-9])}
    assert corrections(own, c)["x"].equal(torch.tensor([8.0, 1.0]))
    assert corrections(own, None)["x"].equal(-own["x"])
    assert corrections(None, c)["x"].equal(c["x"])


def test_what_the_loss_does_not_depend_on_moves_with_the_correction_alone():
    """An expert that no token of this client comes to: its gradient is zero, and the others' still counts."""
    parameter = nn.Parameter(torch.zeros(2))
    control = ControlVariates({"x": parameter}, {"x": torch.tensor([1.0, -2.0])})
    for _ in range(2):  # the correction itself is not written to
        parameter.grad = None
        control.correct_gradients()
        parameter.grad.mul_(3)
    assert parameter.grad.equal(torch.tensor([3.0, -6.0]))
    own = own_after(None, {"x": torch.tensor([1.0, -2.0])}, {"x": torch.tensor([-0.5, 1.0])}, 0.5)
    assert own["x"].equal(torch.zeros(2))


def test_the_sum_of_rates_is_that_of_the_steps():
    assert learning_rate_sum(SGD, 10) == pytest.approx(1.0, abs=1e-15)
    falling = replace(SGD, schedule="linear", warmup=0.25, steps=8)
    rates = [falling.learning_rate * learning_rate_factor(falling, step, 8) for step in range(8)]
    assert learning_rate_sum(falling, 8) == pytest.approx(sum(rates))


def test_rates_too_small_to_divide_by_are_refused():
    with pytest.raises(NotFiniteError, match="control variate of x: element"):
        own_after(None, None, {"x": torch.ones(2)}, 1e-40)
