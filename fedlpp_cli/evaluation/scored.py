"""What one model got on each held-out example; scores of all of them, or of any sample of them, follow from that."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.evaluation.metrics import perplexity
from fedlpp_cli.evaluation.texts import TextStats, text_scores

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """Numbers of N examples, in the data's order.

    `losses`: float64 `(N,)`, the sum over an example's targets; `n_targets`: int64 `(N,)`, how many they are, 1 for a
    text with a class. `predicted` and `expected`: int64 `(N,)`, classes; None for a language model, whose `n_classes`
    is 0. `texts`: of completions that a language model wrote; None where it wrote none.
    """

    losses: Array
    n_targets: Array
    predicted: Array | None = None
    expected: Array | None = None
    n_classes: int = 0
    texts: TextStats | None = None

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.losses)

    @property
    def headline(self) -> Literal["accuracy", "loss"]:
        """The score that models are compared by: "accuracy", or "loss" of a language model."""
        return "loss" if self.predicted is None else "accuracy"


def mean_scores(scored: Scored, counts: Array | None = None) -> dict[str, float]:
    """Name to score.

    A language model gets `loss` (mean a target token), `perplexity` and those of `text_scores`; a classifier `loss`
    (mean a text), `accuracy` and `macro_f1`.

    Args:
        scored: per example.
        counts: int64 `(N,)`, how often each example counts; None for once.
    """
    counts = np.ones(len(scored), np.int64) if counts is None else counts
    loss = _loss(scored, counts)
    if scored.predicted is None or scored.expected is None:
        written = {} if scored.texts is None else text_scores(scored.texts, counts)
        return {"loss": loss, "perplexity": perplexity(loss), **written}
    table = confusion(scored, counts)
    accuracy = float(np.trace(table) / table.sum())
    return {"loss": loss, "accuracy": accuracy, "macro_f1": macro_f1(table)}


def confusion(scored: Scored, counts: Array | None = None) -> Array:
    """int64 `(n_classes, n_classes)`: how many examples of a row's class were given a column's."""
    assert scored.predicted is not None and scored.expected is not None  # noqa: S101, PT018  # a classifier's
    cells = scored.expected * scored.n_classes + scored.predicted
    counts = np.ones(len(scored), np.int64) if counts is None else counts
    table = np.bincount(cells, counts, scored.n_classes**2).reshape(scored.n_classes, scored.n_classes)
    return np.asarray(np.rint(table), np.int64)


def macro_f1(table: Array) -> float:
    """Mean over classes of F1; a class that is neither predicted nor expected does not count.

    A class's F1 is 2 TP / (2 TP + FP + FN), as scikit-learn's `f1_score(average="macro")` has it.

    Args:
        table: as `confusion` gives it.
    """
    hits, touched = np.diagonal(table), table.sum(0) + table.sum(1)
    seen = touched > 0
    return float((2 * hits[seen] / touched[seen]).mean())


def class_scores(table: Array) -> list[dict[str, float]]:
    """Of each class `precision`, `recall`, `f1` and `n`, how many examples it has; without those that are undefined.

    A class that is never predicted has no precision, one without examples no recall, one with neither no F1.

    Args:
        table: as `confusion` gives it.
    """
    found = []
    for hits, given, expected in zip(np.diagonal(table), table.sum(0), table.sum(1), strict=True):
        values = {"precision": (hits, given), "recall": (hits, expected), "f1": (2 * hits, given + expected)}
        defined = {name: float(part / whole) for name, (part, whole) in values.items() if whole}
        found.append({**defined, "n": float(expected)})
    return found


def goodness(scored: Scored, counts: Array | None = None) -> float:
    """The headline score with its sign so that more is better: accuracy, or the loss negated."""
    if scored.predicted is None or scored.expected is None:
        return -_loss(scored, np.ones(len(scored), np.int64) if counts is None else counts)
    hits = scored.predicted == scored.expected
    return float(hits.mean() if counts is None else (hits * counts).sum() / counts.sum())


def _loss(scored: Scored, counts: Array) -> float:
    return float((scored.losses * counts).sum() / (scored.n_targets * counts).sum())
