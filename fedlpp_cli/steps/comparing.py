"""What `evaluate` says about models side by side: intervals, gaps, the recovery ratio, spreads over seeds."""

import statistics
from collections.abc import Mapping, Sequence

from fedlpp_cli.evaluation.bootstrap import intervals_of, rounded_interval
from fedlpp_cli.evaluation.recovery import recovery
from fedlpp_cli.evaluation.scored import Array, Scored, class_scores, confusion, goodness, mean_scores
from fedlpp_cli.records.reports import EvaluateRow, Gap, Interval, ProxyRecovery, Spread
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.contenders import Contender

# Of a gap: its name, and which rows it is between.
Pair = tuple[str, int, int]


def compared(
    contenders: Sequence[Contender], scored: Sequence[Scored], labels: Sequence[str]
) -> tuple[tuple[EvaluateRow, ...], tuple[Gap, ...]]:
    """A row for each contender, and the gaps between them; all intervals are over the same draws of examples.

    Args:
        contenders: in the order of rows.
        scored: what each got.
        labels: names of the classes; empty for a language model.
    """
    pairs = _pairs(contenders, scored)
    found = intervals_of(lambda counts: _numbers(scored, pairs, counts), len(scored[0]))
    intervals = {name: rounded_interval(interval) for name, interval in found.items()}
    rows = tuple(
        EvaluateRow(
            model=one.name,
            role=one.role,
            round=one.round,
            artifact=one.sha256,
            detail=one.detail,
            scores={name: six_digits(value) for name, value in mean_scores(got).items()},
            intervals={name: intervals[index, name] for name in mean_scores(got) if (index, name) in intervals},
            per_class=_per_class(got, labels) if one.is_last else {},
        )
        for index, (one, got) in enumerate(zip(contenders, scored, strict=True))
    )
    return rows, tuple(_gap(pair, contenders, scored, intervals) for pair in pairs)


def _numbers(scored: Sequence[Scored], pairs: Sequence[Pair], counts: Array) -> dict[object, float]:
    """Every score under (row, name), and every gap under its pair."""
    scores = [mean_scores(one, counts) for one in scored]
    found: dict[object, float] = {(row, name): value for row, of in enumerate(scores) for name, value in of.items()}
    headline = scored[0].headline
    sign = -1 if headline == "loss" else 1
    return found | {pair: sign * (scores[pair[1]][headline] - scores[pair[2]][headline]) for pair in pairs}


def _pairs(contenders: Sequence[Contender], scored: Sequence[Scored]) -> list[Pair]:
    """Central and proxy of one master; central and the best fine-tuned proxy; a proxy and each client alone."""
    found: list[Pair] = []
    for index, one in enumerate(contenders):
        of_master = [other for other, row in enumerate(contenders) if row.master == one.master is not None]
        roles = {contenders[other].role: other for other in reversed(of_master)}
        if one.role == "central":
            tuned = [other for other in of_master if contenders[other].role == "fine-tuned"]
            if "proxy" in roles:
                found.append(("recv", index, roles["proxy"]))
            if tuned:
                found.append(("ft", index, max(tuned, key=lambda other: goodness(scored[other]))))
        if one.role == "alone":
            found.append(("alone", roles.get("proxy", roles["central"]), index))
    return found


def _gap(
    pair: Pair, contenders: Sequence[Contender], scored: Sequence[Scored], intervals: Mapping[object, Interval]
) -> Gap:
    name, ahead, behind = pair
    of = next(one for one in (contenders[ahead], contenders[behind]) if one.round is not None)
    assert of.round is not None and of.master is not None  # noqa: S101, PT018  # each pair has one of a master
    return Gap(
        name=name,  # type: ignore[arg-type]
        ahead=contenders[ahead].name,
        behind=contenders[behind].name,
        round=of.round,
        master=of.master,
        value=six_digits(goodness(scored[ahead]) - goodness(scored[behind])),
        interval=intervals.get(pair),
    )


def recovered(contenders: Sequence[Contender], scored: Sequence[Scored], master: str | None) -> ProxyRecovery | None:
    """What the proxy of that master has of its central model's lead; None where one of the three is no row."""
    of_master = {one.role: index for index, one in enumerate(contenders) if master is not None and one.master == master}
    base = next((index for index, one in enumerate(contenders) if one.role == "base"), None)
    if base is None or not {"proxy", "central"} <= set(of_master):
        return None
    found = recovery(scored[of_master["proxy"]], base=scored[base], central=scored[of_master["central"]])
    return ProxyRecovery(
        rho=None if found.rho is None else six_digits(found.rho),
        rho_interval=None if found.interval is None else rounded_interval(found.interval),
        gain=six_digits(found.gain),
        gain_interval=None if found.gain_interval is None else rounded_interval(found.gain_interval),
    )


def spreads(contenders: Sequence[Contender], rows: Sequence[EvaluateRow]) -> tuple[Spread, ...]:
    """Over rows of one label, name and round that are of several artifacts, in the order of the first of each."""
    groups: dict[tuple[str, str, int | None], dict[str | None, EvaluateRow]] = {}
    for one, row in zip(contenders, rows, strict=True):
        if one.label:
            groups.setdefault((one.label, one.name, one.round), {})[row.artifact] = row
    return tuple(_spread(list(group.values())) for group in groups.values() if len(group) > 1)


def _spread(rows: Sequence[EvaluateRow]) -> Spread:
    columns = {name: [row.scores[name] for row in rows] for name in rows[0].scores}
    return Spread(
        model=rows[0].model,
        role=rows[0].role,
        round=rows[0].round,
        n=len(rows),
        mean={name: six_digits(statistics.fmean(values)) for name, values in columns.items()},
        sd={name: six_digits(statistics.stdev(values)) for name, values in columns.items()},
    )


def _per_class(scored: Scored, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    if scored.predicted is None:
        return {}
    of_classes = class_scores(confusion(scored))
    return {
        label: {name: six_digits(value) for name, value in one.items()}
        for label, one in zip(labels, of_classes, strict=True)
    }
