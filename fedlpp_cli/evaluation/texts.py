"""How near the texts that a model wrote are to their references, kept per example so that any sample can be scored.

BLEU and chrF are made of counts that add up over examples; ROUGE-L and exact match are means over them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.errors import UsageError

Array = NDArray[Any]

_INSTALL: Final = "pip install 'fedlpp[metrics]'"
_BLEU_ORDER: Final = 4
_CHRF_ORDER: Final = 6
_CHRF_BETA: Final = 2


@dataclass(frozen=True, slots=True)
class TextStats:
    """Numbers of N texts against one reference each.

    `bleu`: int64 `(N, 10)`: right n-grams of 1 to 4 words, n-grams written, words written, words of the reference.
    `chrf`: int64 `(N, 18)`: for 1 to 6 characters the n-grams written, those of the reference, those of both.
    `rouge_l`: float64 `(N,)`, 0 to 100. `exact`: float64 `(N,)`, 1 for a text that is its reference, else 0.
    """

    bleu: Array
    chrf: Array
    rouge_l: Array
    exact: Array


def compare_texts(hypotheses: Sequence[str], references: Sequence[str]) -> TextStats:
    """What each text has in common with its reference; white space at the ends does not count.

    Raises:
        UsageError: sacrebleu or rouge-score is not installed.
    """
    pairs = [(text.strip(), reference.strip()) for text, reference in zip(hypotheses, references, strict=True)]
    return TextStats(
        bleu=_bleu_counts(pairs),
        chrf=np.array([_chrf_counts(*pair) for pair in pairs], np.int64),
        rouge_l=_rouge_l(pairs),
        exact=np.array([float(text == reference) for text, reference in pairs]),
    )


def text_scores(stats: TextStats, counts: Array) -> dict[str, float]:
    """Name to score: `bleu`, `chrf`, `rouge_l`, 0 to 100, and `exact_match`, a share.

    Args:
        stats: per example.
        counts: int64 `(N,)`, how often each example counts.
    """
    return {
        "bleu": _bleu(counts @ stats.bleu),
        "chrf": _chrf(counts @ stats.chrf),
        "rouge_l": float(counts @ stats.rouge_l) / int(counts.sum()),
        "exact_match": float(counts @ stats.exact) / int(counts.sum()),
    }


def check_can_compare() -> None:
    """Refuse before any decoding to compare texts without the packages for it.

    Raises:
        UsageError: sacrebleu or rouge-score is not installed.
    """
    _bleu_counts([])
    _rouge_l([])


def _bleu_counts(pairs: Sequence[tuple[str, str]]) -> Array:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise UsageError("BLEU needs the package sacrebleu", hint=_INSTALL) from None
    scorer = BLEU(effective_order=True)  # of one text; the counts are the same without
    rows = []
    for text, reference in pairs:
        found = scorer.sentence_score(text, [reference])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return np.array(rows, np.int64).reshape(-1, 2 * _BLEU_ORDER + 2)


def _bleu(sums: Array) -> float:
    """Corpus BLEU with sacrebleu's defaults (Post 2018, arXiv 1804.08771), out of added counts."""
    from sacrebleu.metrics import BLEU

    right, written = sums[:_BLEU_ORDER].tolist(), sums[_BLEU_ORDER : 2 * _BLEU_ORDER].tolist()
    n_written, n_reference = sums[2 * _BLEU_ORDER :].tolist()
    return float(BLEU.compute_bleu(right, written, n_written, n_reference, smooth_method="exp").score)


def _chrf_counts(text: str, reference: str) -> list[int]:
    found = []
    for order in range(1, _CHRF_ORDER + 1):
        written, wanted = _characters(text, order), _characters(reference, order)
        # As sacrebleu: where the reference is too short for an order, that order does not count.
        found += [written.total() if wanted else 0, wanted.total(), (written & wanted).total()]
    return found


def _characters(text: str, order: int) -> Counter[str]:
    joined = "".join(text.split())
    return Counter(joined[start : start + order] for start in range(len(joined) - order + 1))


def _chrf(sums: Array) -> float:
    """Corpus chrF (Popovic 2015) with beta 2 and no words, as sacrebleu has it, out of added counts."""
    written, wanted, both = sums.reshape(_CHRF_ORDER, 3).T
    counts = (written > 0) & (wanted > 0)
    if not both.any():
        return 0.0
    precision = float((both[counts] / written[counts]).mean())
    recall = float((both[counts] / wanted[counts]).mean())
    weight = _CHRF_BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall)


def _rouge_l(pairs: Sequence[tuple[str, str]]) -> Array:
    """ROUGE-L's F-measure (Lin 2004), as rouge-score computes it, without stemming."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError("ROUGE-L needs the package rouge-score", hint=_INSTALL) from None
    scorer = RougeScorer(["rougeL"])
    return np.array([100 * float(scorer.score(wanted, text)["rougeL"].fmeasure) for text, wanted in pairs])
