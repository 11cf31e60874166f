"""What `fedlpp report` has put on its page."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, short, size


def report_page(result: Any) -> Iterable[Block]:
    """The blocks of `fedlpp report`."""
    yield facts([
        ("federation", short(result.federation)),
        ("sections", ", ".join(result.sections)),
        ("nothing for", ", ".join(result.missing)),
        ("figures", f"{len(result.figures)}" + (f", in {result.plots}" if result.plots else "")),
        ("size", size(result.n_bytes)),
    ])  # fmt: skip
