"""The federation file: one TOML file with what a federation's commands would otherwise be told by options.

Settings come from options, then this file, then the defaults of the records in `specs.py`. Paths in the file
are relative to the file. Everything is optional; an unknown name anywhere is an error, found when the file is
read.
"""

import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta

from fedlpp_cli.errors import SettingsError, UsageError
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import MethodSpec
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.record import Count, PartyName, PositiveInt, Record, RecordT, read_record
from fedlpp_cli.records.specs import (
    DEFAULT_STEPS,
    FULL_PRECISION,
    AggregateSpec,
    BaseQuantSpec,
    EvaluateSpec,
    LoraSpec,
    QuantSpec,
    TaskSpec,
    TrainSpec,
)
from fedlpp_cli.refs import Ref, parse_ref

SECTIONS: Final[dict[str, type[Record]]] = {
    "method_options": MethodSpec,
    "task": TaskSpec,
    "lora": LoraSpec,
    "quantize": QuantSpec,
    "mask": MaskSpec,
    "base_quantize": BaseQuantSpec,
    "train": TrainSpec,
    "update": QuantSpec,
    "privacy": PrivacySpec,
    "aggregate": AggregateSpec,
    "evaluate": EvaluateSpec,
}

# What a section says where it is silent, if that is not the default of its record.
SECTION_DEFAULTS: Final[dict[str, dict[str, object]]] = {"update": {"bits": FULL_PRECISION.bits}}

# Of these fields one is set; an option for one takes the place of either in the file. Without any: the default.
_ONE_OF: Final[dict[type[Record], dict[str, object]]] = {
    TrainSpec: {"steps": DEFAULT_STEPS, "epochs": None},
    PrivacySpec: {"noise_multiplier": None, "epsilon": None},
}
# With an option of that value, these fields of the file have no meaning, and are not looked at.
_WITHOUT: Final[dict[type[Record], dict[tuple[str, object], tuple[str, ...]]]] = {
    QuantSpec: {
        ("bits", "full"): ("rounding", "rounding_seed", "scale_rounding", "groups", "codebook"),
        ("rounding", "nearest"): ("rounding_seed",),
    },
    MaskSpec: {("client", 0.0): ("fresh",)},
}


_UPDATE: Final = (
    "How clients round their updates, to the nearest level; full precision where nothing else is said. The fields are\n"
    "those of [quantize]."
)


class FederationFile(Record, frozen=True, kw_only=True):
    """The file's top level."""

    seed: Annotated[Count | None, Meta(description="every value drawn depends on it")] = None
    base: Annotated[str | None, Meta(description="the base model: a folder, or hf://owner/repo")] = None
    private_base: Annotated[bool | None, Meta(description="clients only see a quantized copy of the base")] = None
    method: Annotated[str | None, Meta(description="what the federation goes by; `fedlpp methods` lists them")] = None
    test_data: Annotated[str | None, Meta(description="held-out rows for evaluate")] = None
    method_options: dict[str, Any] = {}
    proxy_rank: Annotated[
        PositiveInt | None, Meta(description="the rank that clients get; the adapter's where nothing is said")
    ] = None
    task: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    quantize: dict[str, Any] = {}
    mask: dict[str, Any] = {}
    base_quantize: dict[str, Any] = {}
    train: dict[str, Any] = {}
    update: Annotated[dict[str, Any], Meta(description=_UPDATE)] = {}
    privacy: dict[str, Any] = {}
    aggregate: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    columns: Annotated[dict[str, str], Meta(description="field = column, where the data names them otherwise")] = {}
    clients: Annotated[dict[PartyName, str], Meta(description="client = data, where one machine plays everybody")] = {}


ChoiceT = TypeVar("ChoiceT")


@dataclass(frozen=True, slots=True)
class Settings:
    """A federation file and where it lies; `Settings()` stands for no file.

    `defaults`: by section, what it says where it is silent, if the federation's method has defaults of its own.
    """

    path: Path | None = None
    file: FederationFile = field(default_factory=FederationFile)
    defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def resolve(self, kind: type[RecordT], section_name: str | None = None, /, **options: object) -> RecordT:
        """The record of class `kind`: options that are not None, then the file's section, then defaults.

        Args:
            kind: the record's class.
            section_name: the section; None for the first one of that class.
            **options: field name to value.

        Raises:
            SettingsError: an unknown field or a value out of range.
        """
        section_name = section_name or next(name for name, section in SECTIONS.items() if section is kind)
        section: Mapping[str, object] = getattr(self.file, section_name)
        given = {name: value for name, value in options.items() if value is not None}
        for option, fields in _WITHOUT.get(kind, {}).items():
            if option in given.items():
                section = {name: value for name, value in section.items() if name not in fields}
        group = _ONE_OF.get(kind, {})
        if set(group) & set(given):
            section = {name: value for name, value in section.items() if name not in group}
        elif not set(group) & set(section):
            section = {**section, **group}
        defaults = {**SECTION_DEFAULTS.get(section_name, {}), **self.defaults.get(section_name, {})}
        merged = {name: _as_list(kind, name, value) for name, value in {**defaults, **section, **given}.items()}
        source = section_name
        if self.path and section:
            source = f"{self.path} [{section_name}]" + (" and options" if given else "")
        return read_record(merged, kind, source=source, error=SettingsError)

    def ref(self, option: str | Path | None, field_name: str) -> Ref | None:
        """The reference in the option, else the one in the file's field (relative to the file), else None."""
        if option is not None:
            return parse_ref(option)
        value: str | None = getattr(self.file, field_name)
        return None if value is None else self.relative(value)

    def choose(self, option: ChoiceT | None, field_name: str, *, default: ChoiceT) -> ChoiceT:
        """The option, else the file's field, else the default."""
        value: ChoiceT | None = option if option is not None else getattr(self.file, field_name)
        return default if value is None else value

    def needed_ref(self, option: str | Path | None, field_name: str, *, flag: str | None = None) -> Ref:
        """As `ref`, but there must be one.

        Raises:
            UsageError: neither option nor file has it.
        """
        found = self.ref(option, field_name)
        if found is None:
            flag = flag or "--" + field_name.replace("_", "-")
            raise UsageError(f"{flag} is missing", hint=f"or {field_name} = … in the --federation file")
        return found

    def client_data(self, client: str) -> Ref | None:
        """Where the file says that this client's data lies."""
        value = self.file.clients.get(client)
        return None if value is None else self.relative(value)

    def relative(self, value: str) -> Ref:
        """A reference of the file, with paths taken from the file's folder."""
        ref = parse_ref(value)
        return self.path.parent / ref if self.path is not None and isinstance(ref, Path) else ref


def read_settings(path: Path | str | None) -> Settings:
    """Read a federation file; None gives the defaults.

    Raises:
        SettingsError: missing, not TOML, or with an unknown field.
    """
    if path is None:
        return Settings()
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not a TOML file ({error})") from None
    file = read_record(raw, FederationFile, source=str(path), error=SettingsError)
    for name, kind in SECTIONS.items():
        unknown = sorted(set(getattr(file, name)) - set(kind.__struct_fields__))
        if unknown:
            known = ", ".join(kind.__struct_fields__)
            raise SettingsError(f"{path} [{name}]: unknown field {unknown[0]!r}; known here: {known}")
    return Settings(path, file)


def _as_list(kind: type[Record], field_name: str, value: object) -> object:
    """A lone string where a list is meant, as people write it."""
    is_list = typing.get_origin(typing.get_type_hints(kind).get(field_name)) is tuple
    return (value,) if is_list and isinstance(value, str) else value
