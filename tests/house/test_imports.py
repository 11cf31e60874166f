"""The shape of the house: imports point down, and nothing heavy loads before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fedlpp_cli

PACKAGE = Path(__file__).parents[2] / "fedlpp_cli"
# A module may import from its own level's row and from rows above it in this table; see the design's levels.
LEVELS = (
    ("version", "errors", "progress", "rounding", "quiet", "randomness", "processes", "printable"),
    ("canonical", "refs"),
    ("records",),
    ("quantization",),
    ("artifact",),
    ("adapters",),
    ("tasks", "models", "aggregation", "privacy"),
    ("methods",),
    ("training", "evaluation", "reporting"),
    ("leakage",),
    ("steps",),
    ("engines",),
    ("planning",),
    ("cli",),
    ("__main__", "__init__"),
)
# Side by side, not on top of each other.
STRANGERS = {("tasks", "models"), ("models", "tasks"), ("aggregation", "tasks"), ("aggregation", "models")}
HEAVY = (
    "torch", "transformers", "peft", "numba", "matplotlib", "huggingface_hub", "datasets", "bitsandbytes",
    "cryptography",
)  # fmt: skip


def level_of(part):
    return next(number for number, names in enumerate(LEVELS) if part in names)


def part_of(module):
    return module.removeprefix("fedlpp_cli").lstrip(".").partition(".")[0] or "__init__"


def imports():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fedlpp_cli"):
                targets = (
                    [f"{node.module}.{alias.name}" for alias in node.names]
                    if node.module == "fedlpp_cli"
                    else [node.module]
                )
                yield from ((path.relative_to(PACKAGE), name, part_of(target)) for target in targets)


def test_imports_point_down():
    wrong = [
        f"{path}: {part} is not below {name}"
        for path, name, part in imports()
        if level_of(part) > level_of(name) or (name, part) in STRANGERS
    ]
    assert wrong == []


def test_every_module_has_a_level():
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert names == {name for row in LEVELS for name in row}


def test_imports_are_absolute():
    relative = [
        str(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def loaded_by(code):
    check = f"{code}\nimport sys\nprint(*sorted(name for name in {HEAVY!r} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import fedlpp_cli",
        "import fedlpp_cli.cli.app",
        "from fedlpp_cli.refs import parse_ref; parse_ref('some/path')",
        "import typer.testing as t\nfrom fedlpp_cli.cli.app import app\nt.CliRunner().invoke(app, ['pack', '--help'])",
    ],
    ids=["package", "command line", "paths", "help"],
)
def test_nothing_heavy_loads(code):
    assert loaded_by(code) == []


def test_looking_at_artifacts_loads_no_torch(played, tmp_path):
    run = played.folder
    code = f"""
from fedlpp_cli import inspect, log, pack, report, status, verify
inspect({str(run / "round-0000" / "package")!r})
verify([{str(run)!r}])
status({str(run)!r})
log({str(run)!r})
report([{str(run)!r}], out={str(tmp_path / "page.html")!r}, plots={str(tmp_path / "plots")!r})
pack({str(run / "round-0000" / "proxy.safetensors")!r}, out="/nowhere/at/all", dry_run=True)
"""
    assert loaded_by(code) == []


def test_every_name_of_the_public_api_is_there():
    assert {"init", "quantize", "pack", "client_train", "aggregate", "evaluate"} < set(fedlpp_cli.__all__)
    for name in fedlpp_cli.__all__:
        assert getattr(fedlpp_cli, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = fedlpp_cli.nothing_like_it
