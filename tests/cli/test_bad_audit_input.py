"""Numbers that mean nothing are refused before any work; help shows its brackets."""

import pytest
import typer.main
from rich.text import Text

from fedlpp_cli.cli.app import app


def commands(group=None):
    group = group or typer.main.get_command(app)
    for command in group.commands.values():
        yield from commands(command) if hasattr(command, "commands") else [command]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("audit", ["--max-rho", "nan"], "--max-rho"),
        ("audit", ["--max-rho", "inf"], "--max-rho"),
        ("audit", ["--max-rho", "80"], "--max-rho"),  # meant as per cent, it would allow everything
        ("audit", ["--budget", "nan"], "--budget"),
        ("audit", ["--budget", "inf"], "--budget inf: a finite number is needed"),
        ("audit", ["--max-auc", "nan"], "--max-auc"),
        ("audit", ["--limit", "0"], "--limit"),
        ("evaluate", ["--batch-size", "0"], "--batch-size"),
        ("plan", ["--max-rho", "80"], "--max-rho"),
        ("plan", ["--max-loss-increase", "inf"], "--max-loss-increase inf: a finite number is needed"),
        ("plan", ["--budget", "-1"], "--budget"),
    ],
)
def test_a_limit_that_would_let_everything_pass_is_refused(runner, command, options, message):
    said = runner.invoke(app, [command, *([] if command == "plan" else ["nowhere"]), *options])
    assert said.exit_code == 2
    assert message in said.stderr
    assert said.stdout == ""


def test_brackets_in_the_help_are_shown_and_not_taken_for_markup():
    told = [parameter.help for command in commands() for parameter in command.params if "[" in (parameter.help or "")]
    assert len(told) >= 4
    for text in told:
        assert Text.from_markup(text).plain == text.replace("\\[", "[")
