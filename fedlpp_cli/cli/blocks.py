"""What results are shown as: lines, pairs of a name and a value, tables."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fedlpp_cli.cli.printable import printable

MIN_WIDTH: Final = 100

Block = str | Any


def size(n_bytes: int) -> str:
    """Bytes as people write them: 980 B, 1.2 kB, 3.4 MB."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def print_block(block: Block) -> None:
    """Print it on stdout."""
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if console.width < MIN_WIDTH and not console.is_terminal:
        console.width = MIN_WIDTH
    console.print(block, soft_wrap=isinstance(block, str))


def facts(rows: Iterable[tuple[str, object]]) -> Any:
    """Names and values, without those that are None or empty."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value not in (None, ""):
            grid.add_row(name, printable(str(value)))
    return grid


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> Any:
    """A table; columns behind the first `text_columns` are numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(head):
        made.add_column(name, justify="left" if index < text_columns else "right", overflow="fold")
    for row in rows:
        made.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    return made


def short(digest: str | None) -> str | None:
    """The start of a digest."""
    return None if digest is None else digest[:12]


def number(value: float | None) -> str | None:
    """Four significant digits."""
    return None if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def train_text(train: Any) -> str:
    """A recipe in a line."""
    length = f"{train.steps} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    batch = f"batch {train.batch_size}" + (
        f" x {train.gradient_accumulation}" if train.gradient_accumulation > 1 else ""
    )
    proximal = f", proximal mu {train.proximal_mu:g}" if train.proximal_mu else ""
    control = ", control variates" if train.control_variates else ""
    return f"{length}, {batch}, {train.optimizer}, learning rate {train.learning_rate:g}{proximal}{control}"
