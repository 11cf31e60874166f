"""What an update tells of its rows: as its client reads it."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, number, table
from fedlpp_cli.cli.privacy_tables import privacy_text


def update_audit(result: Any) -> Iterable[Block]:
    """The blocks of `fedlpp audit --update`."""
    report = result.report
    yield facts([
        ("trained on", f"{report.n_examples} examples, {report.n_steps} steps"),
        ("privacy", privacy_text(report.privacy) or "no noise"),
    ])  # fmt: skip
    rows = [*_words(report.tokens), *_labels(report.labels), *_rebuilt(report.rebuilt), *_rows(report.membership)]
    yield table(("test", "looked at", "found", "by guessing", "95 %"), rows, text_columns=2)
    if report.canaries:
        head = ("canaries", "in", "exposure", "highest", "AUC", "guesses right", "epsilon at least", "promised")
        yield table(head, [_canaries(test) for test in report.canaries])
    yield report.verdict
    yield facts([("what helps" if index == 0 else "", line) for index, line in enumerate(report.advice)])


def _words(found: Any) -> Iterable[tuple[object, ...]]:
    if found.by_chance is None:
        yield ("words", found.skipped, None, None, None)
        return
    guess = _share(max(found.by_chance, found.by_frequency or 0.0))
    yield ("words", f"{found.n_tokens} of {found.n_candidates} tokens", None, guess, None)
    room = f"{found.rank} directions" + ("" if found.is_exact else ", full")
    yield ("", f"by span: {found.skipped or room}", _share(found.by_span), None, None)
    if found.by_rise is not None:
        yield ("", "by what became likelier", _share(found.by_rise), None, None)


def _labels(found: Any) -> list[tuple[object, ...]]:
    if found is None or found.in_order is None:
        return []
    return [("classes", f"{found.n_pairs} pairs in order", _share(found.in_order), _share(0.5), None)]


def _rebuilt(searches: Any) -> Iterable[tuple[object, ...]]:
    for index, found in enumerate(searches):
        name = "texts" if index == 0 else ""
        noise = "" if found.noise_multiplier is None else f", noise {found.noise_multiplier:g}"
        if found.found is None:
            yield (name, f"{found.of}{noise}: {found.skipped}", None, None, None)
            continue
        rows = "one row" if found.n_rows == 1 else f"{found.n_rows} rows"
        match = f"match {found.match:.2f} of {found.match_of_rows:.2f}"
        cut = ", cut by --budget" if found.was_cut else ""
        what = f"{found.of}{noise}: {rows}, {match}{cut}"
        yield (name, f"{what}; tokens found", _share(found.found), _share(found.found_by_chance), None)
        yield ("", "in order (ROUGE-L)", _share(found.in_order), _share(found.in_order_by_chance), None)


def _rows(found: Any) -> list[tuple[object, ...]]:
    if found.auc is None:
        return [("rows", found.skipped, None, None, None)]
    what = f"{found.of}: {found.n_members} rows, {found.n_others} others"
    interval = found.auc_interval
    between = None if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
    return [
        ("rows", f"{what}; AUC", f"{found.auc:.3f}", "0.500", between),
        ("", "found at 1 % false alarms", _share(found.true_positive_rate), _share(0.01), None),
    ]


def _canaries(test: Any) -> tuple[object, ...]:
    noise = "without noise" if test.noise_multiplier is None else f"noise {test.noise_multiplier:g}"
    return (
        noise, test.n_canaries, f"{test.exposure_mean:.2f}", f"{test.exposure_max:.2f}", f"{test.auc:.3f}",
        f"{test.n_right} of {test.n_guesses}", f"{test.epsilon_bound:.3f}", number(test.epsilon) or "nothing",
    )  # fmt: skip


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
