"""What training leaves in a model's modules is put back."""

import torch
from torch import nn

from fedlpp_cli.engines.resident import ModuleState


class Odd(nn.Module):
    """Buffers that training moves, that are replaced, that appear; attributes that count."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.table = torch.arange(3.0)
        self.n_calls = 0

    def forward(self, batch):
        self.n_calls += 1
        self.table.mul_(2.0)
        self.register_buffer("seen", self.seen + len(batch), persistent=False)
        self.register_buffer("longest", torch.tensor(len(batch)), persistent=False)
        return self.norm(batch) * self.table + self.n_calls + self.seen


def test_a_module_is_as_it_was():
    torch.manual_seed(0)
    batch, model = torch.randn(5, 3), Odd().eval()
    state = ModuleState(model)
    # Twice in training mode, once not: running means, too, have moved by then.
    model.train()
    first = [model(batch), model(batch)]
    model.eval()
    first.append(model(batch))
    assert not torch.equal(first[0], first[1])
    state.restore()
    assert (model.n_calls, model.training, model.norm.training) == (0, False, False)
    assert "longest" not in dict(model.named_buffers())
    assert model.norm.num_batches_tracked == 0
    model.train()
    again = [model(batch), model(batch)]
    model.eval()
    again.append(model(batch))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_parameters_are_left_alone():
    model = nn.Linear(2, 2)
    state = ModuleState(model)
    weight = model.weight
    with torch.no_grad():
        weight.add_(1.0)
    moved = weight.clone()
    state.restore()
    assert model.weight is weight
    assert torch.equal(weight, moved)
