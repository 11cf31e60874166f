"""What every record is: frozen, typed, checked when made, and read from plain JSON or TOML values strictly.

Field types and bounds come from the annotations (msgspec checks them when a record is read), rules between fields
from `__post_init__` (which raises ValueError).
"""

import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from fedlpp_cli.errors import FedlppError

# `$` alone would let a trailing newline through in Python.
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="sha256, lower-case hex")]
PartyName = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$(?!\n)", description="name of a party: a-z 0-9 _ -"),
]
ModuleName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$(?!\n)",
        max_length=256,
        description="literal name of a module in the base model, never a pattern",
    ),
]
TensorName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,319}$(?!\n)")]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$(?!\n)")]
# Two levels at most, no leading dot, no separators of any system but "/".
FileName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$(?!\n)"),
]
Count = Annotated[int, Meta(ge=0, le=2**53)]
PositiveInt = Annotated[int, Meta(ge=1, le=2**53)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


# Where msgspec puts the place: "... - at `$.spec.rank`", "... - at `key` in `$.clients`".
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_MESSAGE_CHARS: Final = 300


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records. Each subclass repeats the two keywords: type checkers read them there."""


RecordT = TypeVar("RecordT", bound=Record)


def to_plain(record: Record) -> dict[str, Any]:
    """The record as JSON values, every field present."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain


def read_record(
    raw: Mapping[str, object],
    kind: type[RecordT],
    *,
    source: str,
    error: type[FedlppError],
    allow_unknown: bool = False,
) -> RecordT:
    """The record that `raw` describes.

    Args:
        raw: plain values, from JSON, TOML or options.
        kind: the record's class, or a tagged union of classes.
        source: what to call `raw` in an error.
        error: the class of error to raise.
        allow_unknown: keep quiet about fields that `kind` does not have (a newer minor version's).

    Raises:
        FedlppError: of class `error`, one line naming the field.
    """
    try:
        record = msgspec.convert(dict(raw), kind, strict=True)
    except msgspec.ValidationError as problem:
        raise error(f"{source}: {_explain(problem, kind)}") from None
    plain = to_plain(record)
    for place in _not_finite(plain, ""):
        raise error(f"{source}: {place}: a finite number is needed")
    if not allow_unknown:
        for unknown, known in _unknown_keys(raw, plain, ""):
            raise error(f"{source}: unknown field {unknown!r:.{_MESSAGE_CHARS}}; known here: {', '.join(known)}")
    return record


def choices_of(kind: type[Record], field: str) -> tuple[str, ...]:
    """The values that a `Literal` field takes, empty for any other field."""
    annotation = typing.get_type_hints(kind).get(field)
    is_literal = typing.get_origin(annotation) is typing.Literal
    return tuple(str(value) for value in typing.get_args(annotation)) if is_literal else ()


def _explain(problem: msgspec.ValidationError, kind: type[Record]) -> str:
    """The sentence of msgspec with the field first, and the choices where there are some."""
    text = str(problem)
    place = _PLACE.search(text)
    field = place[1] if place else ""
    text = text[: place.start() if place else None][:_MESSAGE_CHARS]
    choices = choices_of(kind, field)
    if choices:
        text += f"; choose from {', '.join(choices)}"
    return f"{field}: {text}" if field else text


def _unknown_keys(raw: object, known: object, path: str) -> Iterator[tuple[str, list[str]]]:
    """Where a key stands that is not known, and which are known there."""
    if isinstance(raw, Mapping) and isinstance(known, Mapping):
        for key, value in raw.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in known:
                yield here, sorted(known)
            else:
                yield from _unknown_keys(value, known[key], here)
    elif isinstance(raw, list | tuple) and isinstance(known, list | tuple):
        for index, (value, twin) in enumerate(zip(raw, known, strict=False)):
            yield from _unknown_keys(value, twin, f"{path}[{index}]")


def _not_finite(plain: object, path: str) -> Iterator[str]:
    """Where infinity or NaN stands: TOML and options can say them, an artifact cannot."""
    if isinstance(plain, float) and not math.isfinite(plain):
        yield path
    elif isinstance(plain, Mapping):
        for key, value in plain.items():
            yield from _not_finite(value, f"{path}.{key}" if path else str(key))
