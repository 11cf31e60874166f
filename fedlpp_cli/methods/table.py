"""All methods. A new one is a file beside this one, and a row here."""

from typing import Final

from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.methods import as_lora, fedavg, fedlpp, fedqsn, fedsvd, ffa_lora, la_lora, rolora
from fedlpp_cli.methods.method import Method
from fedlpp_cli.records.headers import Header

METHODS: Final[tuple[Method, ...]] = (
    fedlpp.METHOD,
    fedavg.METHOD,
    ffa_lora.METHOD,
    rolora.METHOD,
    la_lora.METHOD,
    as_lora.METHOD,
    fedqsn.METHOD,
    fedsvd.METHOD,
)

_BY_NAME: Final = {method.name: method for method in METHODS}


def method_named(name: str) -> Method:
    """The method that somebody asks for.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in _BY_NAME:
        raise UsageError(f"--method {name}: choose from {', '.join(_BY_NAME)}", hint="fedlpp methods")
    return _BY_NAME[name]


def method_of(header: Header, *, source: str) -> Method:
    """The method that an artifact was made by.

    Raises:
        LineageError: one that this version does not know.
    """
    if header.method not in _BY_NAME:
        raise LineageError(
            f"{source}: of method {header.method!r}, this fedlpp knows {', '.join(_BY_NAME)}",
            hint="pip install -U fedlpp",
        )
    return _BY_NAME[header.method]
