"""The story of a run as people read it."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, number, short, size, table
from fedlpp_cli.cli.method_tables import method_text


def log(result: Any) -> Iterable[Block]:
    """Round after round."""
    yield facts([("federation", short(result.federation)), ("method", method_text(result.method))])
    rows = (
        (
            entry.round, short(entry.master), _bits(entry), len(entry.clients) or None, entry.n_examples or None,
            number(entry.loss_first), number(entry.loss_last),
            None if entry.bytes_down is None else size(entry.bytes_down),
            None if entry.bytes_up is None else size(entry.bytes_up),
        )
        for entry in result.rounds
    )  # fmt: skip
    head = ("round", "master", "bits", "clients", "examples", "loss first", "loss last", "down", "up")
    yield table(head, rows, text_columns=3)


def _bits(entry: Any) -> str | None:
    return ", ".join([entry.bits, *(f"{name} {bits}" for name, bits in entry.groups.items())]) if entry.bits else None
