"""FedProx: the term's gradient, and what it does to a training."""

import pytest
import torch
from support.forge import read_all, sha256_of
from support.parties import Federation
from torch import nn

from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.training.proximal import ProximalTerm

PLAIN = {"batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0}


def parameters_and_loss():
    parameters = [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)), nn.Parameter(torch.linspace(0, 2, 4))]
    return parameters, lambda: parameters[0].sin().sum() * parameters[1].exp().sum()


def test_the_gradient_is_that_of_the_penalty():
    parameters, loss = parameters_and_loss()
    anchors = [parameter.detach().clone() for parameter in parameters]
    term = ProximalTerm(parameters, 0.3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.5).add_(0.25)
    penalty = sum((p - a).square().sum() for p, a in zip(parameters, anchors, strict=True))
    expected = torch.autograd.grad(loss() + 0.3 / 2 * penalty, parameters)
    loss().backward()
    term.add_gradient()
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_where_it_starts_and_with_mu_0_it_changes_no_gradient():
    for mu, way in ((0.7, 0.0), (0.0, 5.0)):
        parameters, loss = parameters_and_loss()
        term = ProximalTerm(parameters, mu)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(way)
        loss().backward()
        before = [parameter.grad.clone() for parameter in parameters]
        term.add_gradient()
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))


def test_what_has_no_gradient_is_left_alone():
    parameters, _ = parameters_and_loss()
    ProximalTerm(parameters, 1.0).add_gradient()
    assert all(parameter.grad is None for parameter in parameters)


@pytest.fixture
def train(llama, tmp_path):
    """The update of one client's training, and its metrics."""

    def train(**options):
        name = "-".join(f"{key}{value}" for key, value in options.items())
        federation = Federation(tmp_path / name, llama, train=TrainSpec(**{"steps": 8, **PLAIN, **options}))
        federation.init()
        federation.send(0)
        metrics = federation.train_client(0, "a").metrics
        return federation.update(0, "a"), metrics

    return train


def test_a_larger_mu_keeps_the_update_smaller(train):
    norms = [train(proximal_mu=mu)[1].update_norm for mu in (0.0, 0.3, 1.0, 5.0)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.7 * norms[0]


def test_the_first_step_feels_nothing_and_the_loss_is_that_of_the_data(train):
    _, free = train(steps=1)
    _, held = train(steps=1, proximal_mu=1e6)
    assert (held.loss_first, held.update_norm) == (free.loss_first, free.update_norm)
    _, later = train(steps=8, proximal_mu=10.0)
    assert later.loss_last < 2 * free.loss_first  # a penalty of that mu would be far above


def test_clipping_is_of_the_whole_gradient(train):
    """Two steps of a clipped length each, however hard the term pulls back."""
    path, _ = train(steps=3, proximal_mu=1e6, max_grad_norm=1e-3, learning_rate=1.0)
    norm = sum(value.square().sum().item() for value in read_all(path).values()) ** 0.5
    assert norm <= 3e-3 * 1.001


def test_adamw_feels_it_too(train):
    free, held = (train(optimizer="adamw", learning_rate=1e-2, proximal_mu=mu)[0] for mu in (0.0, 100.0))
    assert sha256_of(free) != sha256_of(held)
    norms = [sum(value.square().sum().item() for value in read_all(path).values()) for path in (free, held)]
    assert norms[1] < norms[0]
