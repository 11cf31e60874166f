"""Federations that several audits look at; read only."""

import pytest
from support.audits import RECIPE
from support.parties import Federation
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli.records.specs import FULL_PRECISION


@pytest.fixture(scope="session")
def held_out(tmp_path_factory):
    """Twenty rows like those of client a, and none of them."""
    return write_jsonl(tmp_path_factory.mktemp("rows") / "test.jsonl", prompt_rows(40, seed=0)[20:])


@pytest.fixture(scope="session")
def taught(tmp_path_factory, llama):
    """Two rounds that taught the model something; the package of round 2 is still to be made."""
    federation = Federation(tmp_path_factory.mktemp("taught"), llama, train=RECIPE)
    federation.play(2)
    return federation


@pytest.fixture(scope="session")
def taught_in_full(tmp_path_factory, llama):
    """The same without any rounding."""
    federation = Federation(tmp_path_factory.mktemp("full"), llama, train=RECIPE, quantize=FULL_PRECISION)
    federation.play(2)
    return federation
