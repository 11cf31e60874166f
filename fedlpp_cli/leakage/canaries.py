"""Rows of random words: how well a training remembers what nobody could guess.

Exposure is that of Carlini et al. 2019 (arXiv 1802.08232), ranked by how far the loss fell.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.leakage.epsilon_bound import epsilon_bound
from fedlpp_cli.leakage.membership import auc
from fedlpp_cli.randomness import numpy_draws
from fedlpp_cli.records.audits import CanaryTest
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.task import Example, Task

N_TOKENS: Final = 10


def make_canaries(
    task: Task, tokenizer: Any, columns: Mapping[str, str], n_canaries: int, *labels: object
) -> list[Example]:
    """Examples of random tokens, and of a random class where there are classes.

    Args:
        task: encodes rows.
        tokenizer: its vocabulary is drawn from, special tokens left out.
        columns: field name to column name, as the task has them.
        n_canaries: how many.
        labels: name of the draws.
    """
    draws = numpy_draws("canaries", *labels)
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([token for token in range(len(tokenizer)) if token not in special])
    n_classes = len(task.spec.labels)
    found = []
    for number in range(n_canaries):
        ids = ordinary[draws.randint(0, len(ordinary), N_TOKENS)].tolist()
        fields: dict[str, Any] = {columns.get("text", "text"): tokenizer.decode(ids) or "."}
        if n_classes:
            fields[columns.get("label", "label")] = int(draws.randint(0, n_classes))
        found.append(task.encode(Row(f"canary {number}", fields)))
    return found


def toss(n_canaries: int, *labels: object) -> Array:
    """Which canaries are trained on: bool `(n,)`, a fair coin each."""
    return numpy_draws("canaries are in", *labels).randint(0, 2, n_canaries).astype(bool)


def exposures(inserted: Array, references: Array) -> Array:
    """`log2 |R| - log2 rank` of each score among itself and those of references that were not trained on, in bits.

    One that was not trained on has 1.44 on the average.

    Args:
        inserted: scores `(n,)`, higher for what is remembered better.
        references: scores `(R - 1,)`.
    """
    n_above = (references[None, :] >= inserted[:, None]).sum(1)
    return np.asarray(np.log2(len(references) + 1) - np.log2(n_above + 1))


def canary_test(
    scores: Array, is_in: Array, references: Array, *, epsilon: float | None, delta: float, noise: float | None
) -> CanaryTest:
    """What the scores of canaries say of a training.

    Args:
        scores: float64 `(n,)`.
        is_in: bool `(n,)`, the coins.
        references: scores of more canaries that were not trained on.
        epsilon: what the training promised, at `delta`; None for nothing.
        delta: of the bound.
        noise: its noise multiplier; None for none.
    """
    others = np.concatenate([scores[~is_in], references])
    found = exposures(scores[is_in], others)
    n_right, n_guesses = _guess(scores, is_in)
    return CanaryTest(
        noise_multiplier=noise,
        n_canaries=int(is_in.sum()),
        n_references=len(others),
        exposure_mean=six_digits(float(found.mean())),
        exposure_max=six_digits(float(found.max())),
        auc=six_digits(auc(np.concatenate([scores[is_in], others]), np.arange(len(found) + len(others)) < len(found))),
        n_guesses=n_guesses,
        n_right=n_right,
        epsilon_bound=six_digits(epsilon_bound(len(scores), n_guesses, n_right, delta)),
        epsilon=None if epsilon is None else six_digits(epsilon),
        delta=delta,
    )


def _guess(scores: Array, is_in: Array) -> tuple[int, int]:
    """The highest quarter is guessed to be in, the lowest to be out: how many guesses are right, of how many."""
    order = np.argsort(scores, kind="stable")
    quarter = len(scores) // 4
    n_right = int((~is_in[order[:quarter]]).sum() + is_in[order[len(order) - quarter :]].sum())
    return n_right, 2 * quarter
