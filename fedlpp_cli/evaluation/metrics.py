"""Scores from predictions: numbers in, numbers out."""

import math
from collections.abc import Sequence

from fedlpp_cli.errors import UsageError

_INSTALL = "pip install 'fedlpp[metrics]'"


def perplexity(mean_loss: float) -> float:
    """Exponential of the mean loss a token; losses above 700, which would overflow, count as 700."""
    return math.exp(min(mean_loss, 700.0))


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100, with sacrebleu's defaults (Post 2018, arXiv 1804.08771).

    Raises:
        UsageError: sacrebleu is not installed.
    """
    try:
        import sacrebleu
    except ImportError:
        raise UsageError("BLEU needs the package sacrebleu", hint=_INSTALL) from None
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F-measure, 0 to 100 (Lin 2004), as rouge-score computes it, without stemming.

    Raises:
        UsageError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError("ROUGE-L needs the package rouge-score", hint=_INSTALL) from None
    scorer = RougeScorer(["rougeL"])
    pairs = zip(references, hypotheses, strict=True)
    total = sum(float(scorer.score(reference, text)["rougeL"].fmeasure) for reference, text in pairs)
    return 100 * total / len(references)
