"""Evaluations as people read them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fedlpp_cli.cli.blocks import Block, short, table

# Scores that stand in one table; those of other names are in a last one.
_LIKELIHOOD: Final = ("loss", "perplexity", "accuracy", "macro_f1")
_TEXTS: Final = ("bleu", "chrf", "rouge_l", "exact_match")
_TWO_DECIMALS: Final = {"perplexity", "bleu", "chrf", "rouge_l"}
_NAMES: Final = {"rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF"}


def evaluation(result: Any) -> Iterable[Block]:
    """Newest rounds first, then what follows from them, then how it came to that."""
    shown = [row for row in result.rows if row.round in (None, _newest(result.rows)[row.model])]
    names = list(result.rows[0].scores)
    groups = [[name for name in group if name in names] for group in (_LIKELIHOOD, _TEXTS)]
    groups.append([name for name in names if name not in _LIKELIHOOD + _TEXTS])
    for number, group in enumerate(filter(None, groups)):
        yield _scores(shown, group, with_detail=number == 0)
    if result.spreads:
        yield _spreads(result.spreads, names)
    yield from _gaps(result)
    if len(shown) < len(result.rows):
        yield _history(result)
    if result.per_class:
        yield from (_classes(row) for row in shown if row.per_class)
    yield f"{result.n_examples} rows" + (f", {result.n_cut} of them cut to the task's length" if result.n_cut else "")
    if result.n_overlap:
        yield f"warning: {result.n_overlap} of {result.n_examples} rows are in the training data too"


def _newest(rows: Sequence[Any]) -> dict[str, int]:
    """Model to its newest round."""
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.model] = max(row.round or 0, newest.get(row.model, 0))
    return newest


def _scores(rows: Sequence[Any], names: Sequence[str], *, with_detail: bool) -> Block:
    head = ("model", *([""] if with_detail else []), *map(_title, names))
    lines = [(row.model, *([row.detail] if with_detail else []), *(_cell(row, name) for name in names)) for row in rows]
    return table(head, lines, text_columns=2 if with_detail else 1)


def _cell(row: Any, name: str) -> str:
    return "" if name not in row.scores else with_interval(name, row.scores[name], row.intervals.get(name))


def with_interval(name: str, value: float, interval: Any) -> str:
    """A score as 0.794 ± 0.023: the farther end of its interval, two digits of it, and the score as exactly."""
    if interval is None:
        return _plain(name, value)
    return _plus_minus(name, value, max(interval.high - value, value - interval.low))


def _plus_minus(name: str, value: float, error: float) -> str:
    if not error > 0:
        return _plain(name, value)
    n_decimals = max(0, 1 - int(f"{error:.1e}".partition("e")[2]))
    return f"{value:.{n_decimals}f} ± {error:.{n_decimals}f}"


def _plain(name: str, value: float) -> str:
    return f"{value:.2f}" if name in _TWO_DECIMALS else f"{value:.4f}"


def _title(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _spreads(spreads: Sequence[Any], names: Sequence[str]) -> Block:
    lines = [
        (
            one.model, f"mean and sd of {one.n}", one.round,
            *(_plus_minus(name, one.mean[name], one.sd[name]) for name in names),
        )
        for one in spreads
        if one.round == max(other.round or 0 for other in spreads if other.model == one.model) or one.round is None
    ]  # fmt: skip
    return table(("model", "over seeds", "round", *map(_title, names)), lines, text_columns=2)


def _gaps(result: Any) -> Iterable[Block]:
    last: dict[tuple[str, str], int] = {}
    for gap in result.gaps:
        last[gap.ahead, gap.behind] = max(gap.round, last.get((gap.ahead, gap.behind), 0))
    shown = [gap for gap in result.gaps if gap.round == last[gap.ahead, gap.behind]]
    if shown:
        repeats = len({(gap.name, gap.ahead, gap.behind) for gap in shown}) < len(shown)
        lines = [
            (
                f"gap {gap.name}", f"{gap.ahead} over {gap.behind}" + (f", {short(gap.master)}" if repeats else ""),
                f"{gap.value:+.4f}", _low_high(gap.interval),
            )
            for gap in shown
        ]  # fmt: skip
        yield table(("", "", _headline(result), "95 %"), lines, text_columns=2)
    if result.recovery is not None:
        yield _recovery(result)


def _headline(result: Any) -> str:
    return "accuracy" if result.headline == "accuracy" else "less loss"


def _recovery(result: Any) -> str:
    found = result.recovery
    if found.rho is None:
        lead = f"{_headline(result)} {found.gain:+.4f}, 95 % {_low_high(found.gain_interval)}"
        return f"central is not told from base on these {result.n_examples} rows ({lead}): no recovery ratio"
    interval = "" if found.rho_interval is None else f", 95 % {_low_high(found.rho_interval, signed=False)}"
    return f"the proxy has {found.rho:.3f} of the lead of central over base{interval}"


def _low_high(interval: Any, *, signed: bool = True) -> str:
    if interval is None:
        return "none"
    sign = "+" if signed else ""
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _history(result: Any) -> Block:
    """The headline score round by round, of every model that has several."""
    models = list(dict.fromkeys(row.model for row in result.rows if row.round is not None))
    of_round: dict[int, dict[str, Any]] = {}
    for row in result.rows:
        if row.round is not None and row.role in {"proxy", "central"}:
            of_round.setdefault(row.round, {}).setdefault(row.model, row)
    models = [name for name in models if any(name in rows for rows in of_round.values())]
    lines = [
        (number, *(_cell(rows[name], result.headline) if name in rows else "" for name in models))
        for number, rows in sorted(of_round.items())
    ]
    return table(("round", *(f"{name}, {result.headline}" for name in models)), lines)


def _classes(row: Any) -> Block:
    head = (row.model, "precision", "recall", "F1", "n")
    return table(head, ((label, *_class_cells(one)) for label, one in row.per_class.items()))


def _class_cells(one: Mapping[str, float]) -> list[str]:
    values = [f"{one[name]:.3f}" if name in one else "-" for name in ("precision", "recall", "f1")]
    return [*values, f"{one['n']:.0f}"]
