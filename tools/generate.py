"""Write what follows from the code: JSON schemas of artifacts, and the reference pages.

python tools/generate.py           rewrite the files
python tools/generate.py --check   say which are stale, exit 1 if any
"""

import inspect
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import typer.main

from fedlpp_cli import errors
from fedlpp_cli.cli import boundary
from fedlpp_cli.cli.app import app
from fedlpp_cli.records.headers import FORMAT, HEADERS
from fedlpp_cli.records.policy import ClientPolicy
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import SECTION_DEFAULTS, SECTIONS, FederationFile
from fedlpp_cli.records.specs import DEFAULT_STEPS, TrainSpec

ROOT = Path(__file__).parents[1]
NOTE = "<!-- made by tools/generate.py (`make format`); edit the code, not this page -->\n\n"


def render() -> dict[Path, str]:
    """Path to text of every generated file."""
    files = {ROOT / "artifacts" / "schema" / f"{kind}.schema.json": schema(kind) for kind in HEADERS}
    reference = ROOT / "docs" / "reference"
    return {
        **files,
        reference / "commands.md": commands_page(),
        reference / "exit-codes.md": exit_codes_page(),
        reference / "federation-file.md": federation_file_page(),
        reference / "client-policy.md": client_policy_page(),
    }


def schema(kind: str) -> str:
    """JSON schema of a header."""
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"fedlpp {kind}, format {FORMAT}",
        **msgspec.json.schema(HEADERS[kind]),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def commands_page() -> str:
    """Every command: what it does, examples, arguments, options."""
    commands = dict(_all_commands(typer.main.get_command(app)))
    links = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')})" for name in commands)
    parts = [NOTE + "# Commands\n\n" + links + "\n"]
    for name, command in commands.items():
        text = inspect.cleandoc(command.help or "")
        prose = [line for line in text.splitlines() if not line.startswith(("fedlpp ", "    "))]
        examples = [line for line in text.splitlines() if line.startswith(("fedlpp ", "    "))]
        parts.append(f"## {name}\n\n" + "\n".join(prose).strip() + "\n")
        parts.append("```sh\n" + "\n".join(examples) + "\n```\n")
        rows = [_parameter_row(parameter) for parameter in command.params if parameter.name != "help"]
        parts.append("| | | default |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _all_commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Name to command, of groups each command with the group's name in front."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _all_commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def exit_codes_page() -> str:
    """Exit codes and the names that stand in `error.code` of `--json`."""
    families = [*vars(errors).values(), *vars(boundary).values()]
    found = {one for one in families if isinstance(one, type) and issubclass(one, errors.FedlppError)}
    found.remove(errors.FedlppError)
    rows = [
        f"| {one.exit_code} | `{one.code}` | {inspect.cleandoc(one.__doc__ or '').partition(chr(10))[0]} |"
        for one in sorted(found, key=lambda one: (one.exit_code, one.code))
    ]
    return (
        NOTE + "# Exit codes\n\n"
        "0 is success. Everything else is one line on stderr, with `--json` also an envelope on stdout whose\n"
        "`error.code` is the name below. Codes and names keep their meaning; new ones may come.\n\n"
        "| exit code | `error.code` | what happened |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def federation_file_page() -> str:
    """Sections and fields of federation.toml."""
    parts = [
        NOTE + "# The federation file\n\n"
        "`--federation FILE` gives a command its settings in TOML. Options win over the file, the file over defaults.\n"
        "Paths are relative to the file. An unknown name anywhere is an error.\n",
        "## Top level\n",
        _field_table(FederationFile, leave_out=set(SECTIONS), about="meaning"),
    ]
    described = msgspec.json.schema(FederationFile)["$defs"][FederationFile.__name__]["properties"]
    for name, spec in SECTIONS.items():
        doc = described[name].get("description", inspect.cleandoc(spec.__doc__ or ""))
        parts += [f"## [{name}]\n", doc + "\n", _field_table(spec, defaults=SECTION_DEFAULTS.get(name, {}))]
    return "\n".join(parts)


def client_policy_page() -> str:
    """Fields of client.toml."""
    return (
        NOTE + "# The client's policy file\n\n"
        "`client-train --policy FILE`, or `FEDLPP_POLICY` in the environment, holds every package against the\n"
        "client's own limits. One that asks for more ends the command with exit code 10, before the base is opened.\n"
        "`distill train` asks for the same `signers`; the other limits are not about it.\n\n"
        f"{inspect.cleandoc(ClientPolicy.__doc__ or '')}\n\n{_field_table(ClientPolicy, about='meaning')}"
    )


def _parameter_row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *getattr(parameter, "secondary_opts", ())))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    shown = getattr(parameter, "show_default", None)
    default = "required" if parameter.required else shown if isinstance(shown, str) else ""
    if not default and shown and parameter.default not in (None, False):
        default = str(parameter.default)
    # A bracket that the terminal would take for markup has a backslash in front.
    about = (parameter.help or "").replace(chr(92) + "[", "[").replace("|", chr(92) + "|")
    return f"| {names} | {about} | {default} |"


def _field_table(
    spec: type[Record],
    leave_out: Collection[str] = (),
    defaults: Mapping[str, object] = MappingProxyType({}),
    about: str = "default",
) -> str:
    rows = []
    for field in msgspec.structs.fields(spec):
        if field.name in leave_out:
            continue
        schema = msgspec.json.schema(spec)["$defs"][spec.__name__]["properties"][field.name]
        own = f"`{json.dumps(defaults[field.name])}`" if field.name in defaults else _default_text(spec, field)
        rows.append(f"| `{field.name}` | {_type_text(schema)} | {schema.get('description', own)} |")
    return f"| field | values | {about} |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _type_text(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_text(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    text = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}.get(
        schema.get("type", ""), "list" if schema.get("type") == "array" else "table"
    )
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema and abs(schema[key]) < 2**53
    ]
    return " ".join([text, *bounds])


def _default_text(spec: type[Record], field: Any) -> str:
    if field.default is msgspec.NODEFAULT:
        return ""
    default = DEFAULT_STEPS if (spec, field.name) == (TrainSpec, "steps") else field.default
    return "" if default is None else f"`{json.dumps(default)}`"


def main() -> int:
    """Write, or check."""
    stale = {path: text for path, text in render().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: make format")
        return 1 if stale else 0
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
