"""The page that shows how to add a method: what it shows is a method, and fits the table and the tests."""

import re
from pathlib import Path

import pytest

from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.method import Asked, Method
from fedlpp_cli.methods.table import METHODS
from fedlpp_cli.records.specs import AggregateSpec, LoraSpec

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "add-a-method.md").read_text()


@pytest.fixture
def shown():
    code = re.search(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)[1]
    found = {}
    exec(compile(code, "early_a.py", "exec"), found)
    return found["METHOD"]


def test_the_file_it_shows_is_a_method(shown):
    assert isinstance(shown, Method)
    assert shown.name not in {method.name for method in METHODS}
    trained = [shown.plan(None, number).trains for number in range(14)]
    assert trained == ["B", "A"] * 5 + ["B"] * 4
    shown.check(Asked(lora=LoraSpec(), aggregate=AggregateSpec(rule="median")))
    with pytest.raises(UsageError, match="method early-a: combine 'svd'"):
        shown.check(Asked(aggregate=AggregateSpec(combine="svd")))


def test_the_rows_it_shows_are_those_of_its_file(shown):
    assert "early_a.METHOD," in PAGE
    assert f'"{shown.name}": ("{shown.plan(None, 0).trains}", "{shown.plan(None, 1).trains}"),' in PAGE


def test_it_names_every_part_of_a_method():
    parts = set(Method.__dataclass_fields__) - {"name", "paper", "down", "up", "private", "cost"}
    assert {part for part in parts if f"`{part}" in PAGE} == parts
