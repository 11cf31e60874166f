"""From options to records."""

from collections.abc import Sequence

from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.settings import Settings


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


def labels_of(text: str | None) -> tuple[str, ...] | None:
    """The names in `--labels a,b,c`; None where the option is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def keep_of(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names in `--base-keep`, where "none" alone stands for no name; None where the option is not given."""
    return None if names is None else () if list(names) == ["none"] else tuple(names)
