"""What a plan compared before a federation: one section for each."""

from collections.abc import Callable
from typing import Final

from fedlpp_cli.records.plans import PlanReport, PlanRow
from fedlpp_cli.reporting.content import Facts, Listing, Paragraph, Part, Section
from fedlpp_cli.reporting.figures import Axis, Cell, Level, Plot, Point, Series, Table
from fedlpp_cli.reporting.scales import value_text
from fedlpp_cli.reporting.story import Given, Story
from fedlpp_cli.reporting.words import counted, ends, headline_axis, short, with_interval

# Of more settings nobody tells the colours apart: they are told by what became of them.
_MAX_SERIES: Final = 6
_BYTES: Final = Axis("bytes to each client in a round", "bytes")

_Value = Callable[[PlanRow], Point | None]


def plans(story: Story) -> list[Section]:
    """One section each."""
    found = story.of(PlanReport)
    return [_section(given, plan, number, len(found)) for number, (given, plan) in enumerate(found)]


def targets_text(plan: PlanReport) -> str:
    """What the owner asked for."""
    of = plan.targets
    found = [
        None if of.max_rho is None else f"a recovery ratio of {value_text(of.max_rho)} at most",
        None if of.max_bytes_down is None else f"{value_text(of.max_bytes_down, 'bytes')} down in a round at most",
        None if of.max_loss_increase is None else f"a loss {value_text(of.max_loss_increase)} higher at most",
    ]
    told = ", ".join(words for words in found if words is not None)
    return told or "nothing; so the smallest recovery ratio is best, if the owner's model keeps most of its gain"


def _section(given: Given, plan: PlanReport, number: int, n_plans: int) -> Section:
    suffix = f"-{number + 1}" if number else ""
    simulated = [row for row in plan.rows if row.central]
    parts: list[Part] = [Paragraph(plan.verdict, "verdict"), _facts(plan)]
    if any(row.rho is not None for row in simulated):
        parts.append(_privacy(plan, suffix))
    elif simulated:
        parts.append(
            Paragraph("No setting has a recovery ratio: without rounding the model is not told from the base.")
        )
    if simulated:
        parts += [_quality(plan, suffix), Listing("Simulated settings", _simulated(plan))]
    if any(row.cosine is not None for row in plan.rows):
        parts.append(_gradients(plan, suffix))
    parts.append(Listing("Every setting", _settings(plan), is_folded=bool(simulated)))
    if plan.groups:
        parts.append(Listing("Groups of tensors, each rounded alone", _groups(plan), is_folded=True))
    return Section("Plan" if n_plans == 1 else f"Plan: {given.name}", tuple(parts))


def _facts(plan: PlanReport) -> Facts:
    name = plan.headline
    return Facts((
        ("asked for", targets_text(plan)),
        ("chosen", "none" if plan.chosen is None else plan.rows[plan.chosen].label),
        ("simulated", f"{counted(plan.n_rounds, 'round')} with {counted(plan.n_clients, 'client')}"),
        ("measured on", f"{short(plan.data)}, {counted(plan.n_examples, 'row')}"),
        (f"{name} of base", plan.base.get(name)),
        (f"{name} without rounding", plan.plain.get(name)),
        ("which is ahead of base by", f"{with_interval(plan.gain, plan.gain_interval)} in {name}"),
    ))  # fmt: skip


def _privacy(plan: PlanReport, suffix: str) -> Plot:
    """The frontier: what proxies give away, for what they cost."""

    def value(row: PlanRow) -> Point | None:
        return None if row.rho is None else Point(float(row.bytes_down), row.rho, *ends(row.rho_interval))

    allowed = plan.targets.max_rho
    levels = [Level(0.0, "base"), Level(1.0, "owner's model")]
    if allowed is not None:
        levels.append(Level(allowed, f"allowed: {value_text(allowed)}"))
    return Plot(
        name=f"plan-privacy{suffix}",
        title="What proxies give away, against bytes",
        about="The recovery ratio after the simulated rounds, with its 95 % interval: of the newest proxy, or of the "
        "mean of the newer ones if that is more. Lower is more private, further left is cheaper. 0 is the base model, "
        "1 the owner's.",
        x=_BYTES,
        y=Axis("recovery ratio (share of the owner's gain)"),
        series=_by_setting(plan, value),
        levels=tuple(levels),
        table=_simulated(plan),
    )


def _quality(plan: PlanReport, suffix: str) -> Plot:
    name, allowed = plan.headline, plan.targets.max_loss_increase
    levels = [Level(plan.plain[name], "without rounding")] if name in plan.plain else []
    if allowed is not None and name == "loss" and levels:
        levels.append(Level(plan.plain[name] + allowed, "allowed"))
    return Plot(
        name=f"plan-quality{suffix}",
        title="What the owner's model loses, against bytes",
        about=f"The {name} of the owner's model after the simulated rounds.",
        x=_BYTES,
        y=Axis(headline_axis(name)),
        series=_by_setting(
            plan, lambda row: Point(float(row.bytes_down), row.central[name]) if name in row.central else None
        ),
        levels=tuple(levels),
        table=_simulated(plan),
    )


def _gradients(plan: PlanReport, suffix: str) -> Plot:
    """Of every setting that was measured: before any rounds are played."""
    places = [Point(float(row.bytes_down), row.cosine) if row.cosine is not None else None for row in plan.rows]
    kinds: dict[str, list[Point]] = {"not simulated": [], "simulated": [], "chosen": []}
    for index, (row, point) in enumerate(zip(plan.rows, places, strict=True)):
        if point is not None:
            kinds["chosen" if index == plan.chosen else "simulated" if row.central else "not simulated"].append(point)
    styles = {"chosen": 1, "simulated": 0, "not simulated": 6}
    return Plot(
        name=f"plan-gradients{suffix}",
        title="What clients' work is worth, against bytes",
        about="The cosine between the adapter's gradients at the proxy and at the adapter in full precision. Near 1 "
        "clients train as if they had that; of every setting, whether its rounds were simulated or not.",
        x=_BYTES,
        y=Axis("cosine of the gradients"),
        series=tuple(Series(kind, styles[kind], _ordered(points), is_line=False) for kind, points in kinds.items()),
        table=_settings(plan),
    )


def _by_setting(plan: PlanReport, value: _Value) -> tuple[Series, ...]:
    """A series for each setting, the chosen one first; of many settings one for what became of them."""
    found = [(_mark(plan, row), row, point) for row in _simulated_rows(plan) if (point := value(row)) is not None]
    found.sort(key=lambda one: one[0] != "chosen")
    if len(found) <= _MAX_SERIES:
        named = [(f"{mark}: {row.label}" if mark == "chosen" else row.label, point) for mark, row, point in found]
        of_chosen = found[:1] and found[0][0] == "chosen"
        styles = [1, 0, *range(2, _MAX_SERIES)] if of_chosen else range(_MAX_SERIES)
        return tuple(
            Series(name, style, (point,), is_line=False) for (name, point), style in zip(named, styles, strict=False)
        )
    styles_of = {"": 6, "to compare with": 3, "not beaten": 0, "chosen": 1}
    return tuple(
        Series(mark or "beaten by another", style, _ordered([one[2] for one in found if one[0] == mark]), is_line=False)
        for mark, style in styles_of.items()
    )


def _ordered(points: list[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: (point.x, point.y)))


def _simulated_rows(plan: PlanReport) -> list[PlanRow]:
    """The most bytes first, as on the terminal."""
    return sorted((row for row in plan.rows if row.central), key=lambda row: -row.bytes_down)


def _mark(plan: PlanReport, row: PlanRow) -> str:
    """What became of it; "" where another one is at least as good in bytes, the owner's loss and the ratio."""
    if plan.chosen is not None and row is plan.rows[plan.chosen]:
        return "chosen"
    return "to compare with" if row.for_comparison else "not beaten" if row.on_front else ""


def _simulated(plan: PlanReport) -> Table:
    """Pareto's table: "not beaten" is what no other setting outdoes in bytes down, the owner's loss and the ratio."""
    name = plan.headline
    rows = tuple(
        (
            row.label, _mark(plan, row), value_text(row.bytes_down, "bytes"), value_text(row.bytes_up, "bytes"),
            row.central.get(name), row.rho_newest, row.rho_mean, with_interval(row.rho, row.rho_interval),
        )
        for row in _simulated_rows(plan)
    )  # fmt: skip
    head = ("setting", "", "down", "up", f"owner's {name}", "rho newest", "rho mean", "the larger")
    return Table(head, rows, text_columns=2)


def _settings(plan: PlanReport) -> Table:
    """What each costs, and what it is worth at the model of the rounds without rounding."""
    name = plan.headline
    rows = tuple(
        (
            row.label, row.skipped or ("simulated" if row.central else ""),
            *(value_text(size, "bytes") for size in (row.bytes_down, row.bytes_up)),
            row.proxy.get(name), row.tuned.get(name), row.loss_increase, row.gradient_change, row.cosine, row.score,
        )
        for row in sorted(plan.rows, key=lambda row: -row.bytes_down)
    )  # fmt: skip
    numbers = (f"proxy's {name}", "trained on", "loss +", "gradient change", "cosine", "score")
    return Table(("setting", "rounds", "down", "up", *numbers), rows, text_columns=2)


def _groups(plan: PlanReport) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            row.group, row.bits, value_text(row.n_bytes, "bytes"), row.loss_increase, row.gradient_change, row.cosine,
            row.score,
        )
        for row in plan.groups
    )  # fmt: skip
    return Table(("group", "bits", "size", "loss +", "gradient change", "cosine", "score"), rows, text_columns=2)
