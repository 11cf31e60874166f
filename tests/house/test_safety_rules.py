"""Rules that hold for every line of the package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "fedlpp_cli").rglob("*.py"))
FORBIDDEN = {
    "pickle": re.compile(r"\bpickle\b|\bdill\b|\bcloudpickle\b|\bmarshal\b|\bshelve\b"),
    "torch.load": re.compile(r"torch\s*\.\s*load\b|\bload_state_dict_from_url\b"),
    "trust_remote_code": re.compile(r"trust_remote_code(?!\"|=False|\": False)"),
    "other weights": re.compile(r"use_safetensors\s*(=|\":)\s*False|\.bin\b"),
    "eval": re.compile(r"(?<![\w.])(eval|exec)\("),
    "shell": re.compile(r"os\.system|shell=True"),
}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_the_package_has_none_of(rule):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if FORBIDDEN[rule].search(line)
    ]
    assert found == []


def test_models_are_opened_from_safetensors_only_and_without_code_of_their_own():
    source = (ROOT / "fedlpp_cli" / "models" / "open_model.py").read_text()
    assert '"use_safetensors": True' in source
    assert '"trust_remote_code": False' in source
    opened = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
    }
    assert opened == {"open_model.py"}


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 320} == {}
