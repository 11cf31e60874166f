"""What the tests of an update mean, in plain words, and what would help."""

from collections.abc import Iterator, Sequence
from typing import Final

from fedlpp_cli.records.audits import CanaryTest, LabelRecovery, Membership, RowRecovery, TokenRecovery

_TOLD_WELL: Final = 0.7  # AUC
# Where there are too few rows for an interval: as with one row that outdoes 19 of 20 others.
_TOLD_ALONE: Final = 0.95
_MOST: Final = 0.5  # of the way from guessing to everything
_SOME: Final = 0.15
# What is not trained on has 1.44 on the average; twice that is remembered.
_REMEMBERED: Final = 2.89
_FEW_ROWS: Final = 100
_MANY_PASSES: Final = 2.0


def verdict(
    tokens: TokenRecovery,
    labels: LabelRecovery | None,
    found: Membership,
    canaries: Sequence[CanaryTest],
    rebuilt: Sequence[RowRecovery] = (),
) -> str:
    """Sentences, one for each test that was made."""
    about_rows = map(_rebuilt, (one for one in rebuilt if one.in_order is not None))
    return " ".join([*_sentences(tokens, labels, found, canaries), *about_rows, "Stronger tests may find more."])


def advice(
    tokens: TokenRecovery,
    found: Membership,
    canaries: Sequence[CanaryTest],
    rebuilt: Sequence[RowRecovery] = (),
    *,
    n_examples: int,
    n_passes: float,
    is_private: bool,
) -> tuple[str, ...]:
    """What would let the update tell less, where it tells something; most useful first.

    Args:
        tokens: the words' test.
        found: the rows' test.
        canaries: of trainings like this one, without noise and with.
        rebuilt: the searches for rows, that in the update first.
        n_examples: how many rows there are.
        n_passes: how often each row was trained on.
        is_private: the update has noise.
    """
    refuted = [test for test in canaries if test.epsilon is not None and test.epsilon_bound > test.epsilon]
    lines = ["the epsilon that was promised is refuted: do not send it, and report this"] if refuted else []
    is_rebuilt = any(one.of == "update" and _rows_gain(one) >= _SOME for one in rebuilt)
    tells = is_rebuilt or _is_told(found) or _gain(tokens) >= _SOME or _is_remembered(canaries, is_private=is_private)
    if not tells:
        return tuple(lines)
    if is_private:
        lines.append("more noise: a smaller --dp-epsilon")
    else:
        lines.append("noise: client-train --dp-epsilon")
    if n_passes > _MANY_PASSES:
        lines.append(f"fewer steps or epochs, which the owner sets: each row was seen {n_passes:.3g} times")
    if n_examples < _FEW_ROWS:
        lines.append(f"more rows than these {n_examples}")
    if tokens.is_exact and _gain(tokens) >= _SOME:
        lines.append(f"larger batches, which the owner sets: this update has room for all of its {tokens.rank} inputs")
    return tuple(lines)


def _sentences(
    tokens: TokenRecovery, labels: LabelRecovery | None, found: Membership, canaries: Sequence[CanaryTest]
) -> Iterator[str]:
    if found.auc is not None:
        how = "cannot be told here"
        if _is_told(found):
            how = "can be told" if found.auc >= _TOLD_WELL else "can be told a little"
        yield f"Which rows were trained on {how}."
    if tokens.by_chance is not None:
        gain = _gain(tokens)
        words = "Most words" if gain >= _MOST else "Some words" if gain >= _SOME else "No words beyond what one guesses"
        yield f"{words} of the rows come out of it."
    if labels is not None and labels.most_frequent:
        yield "The most frequent class comes out of it."
    for test in canaries:
        with_noise = "without noise" if test.noise_multiplier is None else "with noise"
        remembers = "remembers" if test.exposure_mean >= _REMEMBERED else "hardly remembers"
        yield f"A training like this {with_noise} {remembers} rows that nobody could guess."


def _is_told(found: Membership) -> bool:
    """Better than chance, whichever rows of this kind there are; without an interval, clearly."""
    if found.auc is None:
        return False
    return found.auc_interval.low > 0.5 if found.auc_interval else found.auc >= _TOLD_ALONE


def _gain(tokens: TokenRecovery) -> float:
    """How far from guessing (0) to everything (1) the better of both ways is."""
    if tokens.by_chance is None:
        return 0.0
    guess = max(tokens.by_chance, tokens.by_frequency or 0.0)
    found = max(tokens.by_span or 0.0, tokens.by_rise or 0.0)
    return (found - guess) / (1 - guess) if guess < 1 else 0.0


def _rebuilt(found: RowRecovery) -> str:
    gain = _rows_gain(found)
    what = "Most of the rows' text" if gain >= _MOST else "Some of the rows' text" if gain >= _SOME else "Nothing"
    where = "from it" if found.of == "update" else "from a training like it with noise"
    return f"{what} beyond chance is rebuilt in order {where}{', in the time it had' if found.was_cut else ''}."


def _rows_gain(found: RowRecovery) -> float:
    """How far from chance (0) to whole rows (1)."""
    guess = found.in_order_by_chance or 0.0
    return ((found.in_order or 0.0) - guess) / (1 - guess) if guess < 1 else 0.0


def _is_remembered(canaries: Sequence[CanaryTest], *, is_private: bool) -> bool:
    return any(
        test.exposure_mean >= _REMEMBERED for test in canaries if (test.noise_multiplier is not None) == is_private
    )
