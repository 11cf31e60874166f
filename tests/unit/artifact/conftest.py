"""Headers for artifacts that are about something else."""

import pytest

from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.specs import TrainMetrics


@pytest.fixture
def header():
    """The header of an update: the smallest kind that goes with tensors."""
    metrics = TrainMetrics(n_examples=1, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
    return UpdateHeader(federation="0" * 64, round=0, parents={}, spec=UpdateSpec(client="a", metrics=metrics))
