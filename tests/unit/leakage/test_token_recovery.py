"""What of an update is no function of the rows."""

import pytest
import torch

from fedlpp_cli.leakage.token_recovery import without_decay
from fedlpp_cli.records.specs import TrainSpec


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_is_put_back(name):
    recipe = TrainSpec(steps=3, optimizer=name, learning_rate=0.01, weight_decay=0.1, schedule="linear", warmup=0.4)
    start = torch.linspace(-1, 1, 12)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]([parameter], weight_decay=0.1)
    for factor in (0.5, 1.0, 1.0):  # two steps of warm-up; then the first of the linear fall
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    decayed = parameter.detach() - start
    left = without_decay({"x": parameter.detach()}, {"x": start}, recipe, 3)["x"]
    assert decayed.abs().max() > 2e-3
    assert left.abs().max() < 1e-5
