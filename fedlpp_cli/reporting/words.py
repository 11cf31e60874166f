"""Numbers and names as sentences and cells of the page have them."""

from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.reporting.scales import value_text


def short(digest: str | None) -> str | None:
    """The start of a digest."""
    return None if digest is None else digest[:12]


def with_interval(value: float | None, interval: Interval | None) -> str | None:
    """A value and its 95 % interval."""
    if value is None:
        return None
    ends = "" if interval is None else f" [{value_text(interval.low)}, {value_text(interval.high)}]"
    return value_text(value) + ends


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    """Both ends of an interval, None for none."""
    return (None, None) if interval is None else (interval.low, interval.high)


def counted(number: int, thing: str) -> str:
    """A number of things: 1 round, 2 rounds."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def task_text(task: TaskSpec) -> str:
    """What the model learns."""
    if task.kind == "seq-cls":
        return f"classification into {len(task.labels)} classes"
    return "language modelling"


def headline_of(scores: dict[str, float]) -> str:
    """The score that models are compared by."""
    return "accuracy" if "accuracy" in scores else "loss"


def headline_axis(name: str) -> str:
    """The same as an axis says it, with its unit and which way is better."""
    return "accuracy (share of rows, more is better)" if name == "accuracy" else "loss (nats a token, less is better)"
