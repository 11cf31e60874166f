"""What the pages promise exists: links, commands, options, targets."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from fedlpp_cli.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "artifacts" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]
COMMANDS = typer.main.get_command(app).commands


def blocks(page):
    """Lines of the page's code blocks; continued ones joined, prompts taken off."""
    text = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))
    return [line.strip().removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [target for target in found if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_has_these_options(page):
    for line in blocks(page):
        if not line.startswith("fedlpp ") or line.startswith("fedlpp --"):
            continue
        _, name, *words = shlex.split(line)
        command = COMMANDS[name]
        if hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known, line


def test_every_make_target_that_is_shown_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)) | {"federate"}
    shown = {
        re.sub(r" -\S+", "", line).split()[1] for page in PAGES for line in blocks(page) if line.startswith("make ")
    }
    assert shown <= targets
    assert {"demo", "test", "federate"} <= shown
