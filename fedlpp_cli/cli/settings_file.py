"""From options to records."""

import dataclasses
import re
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Final

from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.settings import Settings
from fedlpp_cli.records.specs import AggregateSpec, BaseQuantSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.refs import Ref, parse_ref

if TYPE_CHECKING:
    from fedlpp_cli.engines.federation import FederationSpec

_CLIENT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def columns_of(settings: Settings, pairs: Sequence[str] | None) -> dict[str, str]:
    """Field name to column name, out of `--column FIELD=NAME` and the federation file.

    Raises:
        UsageError: a pair without "=".
    """
    columns = dict(settings.file.columns)
    for pair in pairs or ():
        field, equals, name = pair.partition("=")
        if not (field and equals and name):
            raise UsageError(f"--column {pair!r}: FIELD=NAME is needed", hint="--column text=body")
        columns[field] = name
    return columns


def groups_of(settings: Settings, pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Group of tensors to width, out of `--group NAME=BITS` and the federation file; None where no option is given.

    Raises:
        UsageError: a pair without "=".
    """
    if not pairs:
        return None
    groups = dict(settings.file.quantize.get("groups", {}))
    for pair in pairs:
        name, equals, bits = pair.partition("=")
        if not (name and equals and bits):
            raise UsageError(f"--group {pair!r}: NAME=BITS is needed", hint="--group lora_B=4")
        groups[name] = bits
    return groups


def data_of_clients(settings: Settings, named: Sequence[str] | None, *, flag: str) -> dict[str, Ref]:
    """Client to data, out of `NAME=REF`, or of `NAME` alone, which the federation file knows.

    Raises:
        UsageError: no name of a client, or one that the file does not know.
    """
    found: dict[str, Ref] = {}
    for text in named or ():
        client, equals, ref = text.partition("=")
        if not _CLIENT.fullmatch(client) or (equals and not ref):
            raise UsageError(
                f"{flag} {text!r}: NAME=REF is needed, a name of a-z 0-9 _ -", hint=f"{flag} east=east.jsonl"
            )
        data = parse_ref(ref) if equals else settings.client_data(client)
        if data is None:
            known = shorten(", ".join(settings.file.clients), 80) or "no client"
            raise UsageError(
                f"{flag} {client}: no data for it; [clients] in the --federation file has {known}",
                hint=f"{flag} {client}=DATA",
            )
        found[client] = data
    return found


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """The names in `--labels a,b,c`; None where the option is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def keep_of(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names in `--base-keep`, where "none" alone stands for no name; None where the option is not given."""
    return None if names is None else () if list(names) == ["none"] else tuple(names)


def resolve_aggregate(settings: Settings, **options: object) -> AggregateSpec:
    """How to aggregate, out of options and the federation file.

    Raises:
        SettingsError: as `Settings.resolve`.
        UsageError: an adaptive optimizer, which moves every weight by about the learning rate, so that the default of 1
            wrecks an adapter, and nobody has said how large its steps are.
    """
    spec = settings.resolve(AggregateSpec, **options)
    stated = options.get("server_learning_rate") is not None or "server_learning_rate" in settings.file.aggregate
    if not stated and spec.server_optimizer not in {"sgd", "momentum"}:
        raise UsageError(
            f"--server-learning-rate is missing: {spec.server_optimizer} moves every weight by about that much a round",
            hint="--server-learning-rate 0.01, or server_learning_rate under [aggregate] in the --federation file",
        )
    return spec


def with_method(settings: Settings, method: str | None = None) -> Settings:
    """The settings with what a method, or else the file's own, says where the file is silent.

    Raises:
        UsageError: no such method.
    """
    from fedlpp_cli.methods.table import method_named

    name = settings.choose(method, "method", default=METHOD)
    return dataclasses.replace(settings, defaults=method_named(name).defaults)


def federation_of(
    settings: Settings,
    *,
    base: str | None,
    seed: int | None,
    method: str | None = None,
    warmup_rounds: int | None = None,
    reference: str | None = None,
) -> "FederationSpec":
    """What the commands of a whole federation are told, out of options and the federation file.

    Raises:
        SettingsError, UsageError: as `Settings.resolve` and `resolve_aggregate`; no such method.
    """
    from fedlpp_cli.engines.federation import FederationSpec

    method = settings.choose(method, "method", default=METHOD)
    settings = with_method(settings, method)
    return FederationSpec(
        base=settings.ref(base, "base"),
        private_base=settings.choose(None, "private_base", default=False),
        method=method,
        method_options=settings.resolve(MethodSpec, warmup_rounds=warmup_rounds),
        seed=settings.choose(seed, "seed", default=0),
        task=settings.resolve(TaskSpec),
        lora=settings.resolve(LoraSpec),
        quantize=settings.resolve(QuantSpec),
        proxy_rank=settings.file.proxy_rank,
        mask=settings.resolve(MaskSpec),
        base_quantize=settings.resolve(BaseQuantSpec),
        train=settings.resolve(TrainSpec),
        update=settings.resolve(QuantSpec, "update"),
        aggregate=resolve_aggregate(settings),
        reference=reference,
    )
