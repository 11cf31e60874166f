"""The federation file of a chosen setting: what the given file says, with the choice in it."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.plans import PlanReport
from fedlpp_cli.records.record import Record, to_plain
from fedlpp_cli.records.settings import Settings
from fedlpp_cli.records.specs import (
    DEFAULT_STEPS,
    FULL_PRECISION,
    AggregateSpec,
    BaseQuantSpec,
    LoraSpec,
    TaskSpec,
    TrainSpec,
)
from fedlpp_cli.refs import HubRef, parse_ref

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
# The file may say nothing of these; others are written as soon as they differ from what silence means.
_DEFAULTS: Final[dict[str, Record]] = {
    "task": TaskSpec(),
    "lora": LoraSpec(),
    "base_quantize": BaseQuantSpec(),
    "train": TrainSpec(steps=DEFAULT_STEPS),
    "update": FULL_PRECISION,
    "aggregate": AggregateSpec(),
    "method_options": MethodSpec(),
}


def write_choice(
    out: Path, federation: FederationSpec, settings: Settings, comments: Iterable[str], *, force: bool
) -> None:
    """Write a federation file that gives commands what `federation` says. It is whole, or not there.

    What no command of a simulation is told (held-out data, scoring, clients) is copied from `settings`. Paths are
    written as seen from the folder of `out`.

    Args:
        out: where the file goes.
        federation: the chosen setting.
        settings: the file that the plan was given.
        comments: lines for its head, without line breaks.
        force: replace a file that is there.

    Raises:
        OutputExistsError, OutputError: as `whole_file`.
    """
    text = choice_text(out, federation, settings, comments)
    with whole_file(out, force=force) as descriptor, output_errors(out):
        write_all(descriptor, text.encode(), 0)


def choice_text(out: Path, federation: FederationSpec, settings: Settings, comments: Iterable[str]) -> str:
    """The file's text; arguments as `write_choice`."""
    file = settings.file
    top = {
        "seed": federation.seed,
        "base": None if federation.base is None else _seen_from(out, str(federation.base)),
        "private_base": federation.private_base or None,
        "method": None if federation.method == METHOD else federation.method,
        "test_data": None if file.test_data is None else _seen_from(out, str(settings.relative(file.test_data))),
        "proxy_rank": None if federation.proxy_rank == federation.lora.rank else federation.proxy_rank,
    }
    quantize = to_plain(federation.quantize)
    groups = quantize.pop("groups")
    sections: dict[str, Mapping[str, Any]] = {"quantize": quantize, "quantize.groups": groups}
    for name, default in _DEFAULTS.items():
        sections[name] = _told(getattr(federation, name), default, getattr(file, name))
    sections["mask"] = _told(federation.mask, method_named(federation.method).mask, file.mask)
    if not federation.private_base:
        sections["base_quantize"] = {}
    sections |= {"privacy": file.privacy, "evaluate": file.evaluate, "columns": file.columns}
    sections["clients"] = {
        name: _seen_from(out, str(settings.relative(data))) for name, data in file.clients.items()
    }  # fmt: skip
    lines = [*(f"# {line}" for line in comments), *_pairs(top)]
    for name, section in sections.items():
        pairs = list(_pairs(section))
        lines += ["", f"[{name}]", *pairs] if pairs else []
    return "\n".join(lines) + "\n"


def _told(record: Record, default: Record, stated: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says otherwise than silence would, or the file said."""
    own, silent = to_plain(record), to_plain(default)
    return {name: value for name, value in own.items() if value != silent[name] or name in stated}


def _pairs(values: Mapping[str, Any]) -> Iterable[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in values.items() if value is not None]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """A value in TOML, whose strings are JSON's, but for DEL."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(_pairs(value))}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _seen_from(out: Path, ref: str) -> str:
    """A path relative to the folder of `out`; an address of the Hub as it is."""
    parsed = parse_ref(ref)
    return ref if isinstance(parsed, HubRef) else Path(os.path.relpath(parsed, out.parent)).as_posix()


def comments(found: PlanReport) -> list[str]:
    """What was measured, for the head of the file."""
    row = found.rows[found.chosen or 0]
    name = found.headline
    rho = "unknown" if row.rho is None else f"{row.rho:.3g}"
    if row.rho_interval is not None:
        rho += f" ({row.rho_interval.low:.2g} to {row.rho_interval.high:.2g})"
    n_simulated = sum(bool(one.central) for one in found.rows)
    return [
        f"Made by fedlpp plan: {row.label}, one of {len(found.rows)} settings, {n_simulated} of them simulated.",
        f"{found.n_rounds} rounds with {found.n_clients} clients, {found.n_examples} rows to measure on:",
        f"{name}: base {found.base[name]:.4g}, owner {row.central[name]:.4g}, without rounding {found.plain[name]:.4g}",
        f"rho, the larger of the newest proxy's and the mean's: {rho}",
        f"bytes to and from each client in a round: {row.bytes_down} and {row.bytes_up}",
    ]
