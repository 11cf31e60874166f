"""Texts against references: what the libraries that people quote say of the whole, out of numbers of single texts."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from fedlpp_cli.evaluation.texts import compare_texts, text_scores

REFERENCES = ["the cat sat on the mat today.", "a b c d", "no", "nothing in common with it", "Ein Fluß, 3.5 km lang!"]
WRITTEN = ["the cat sat on a mat", "a c d", "", "xyzzy", "Ein Fluß, 3.5 km"]
WORDS = st.lists(st.sampled_from(["ab", "cd", "e", "f,", "g.", "é"]), max_size=8).map(" ".join)


def scores(written, references, counts=None):
    counts = np.ones(len(written), np.int64) if counts is None else np.array(counts)
    return text_scores(compare_texts(written, references), counts)


def quoted(written, references):
    scorer = RougeScorer(["rougeL"])
    return {
        "bleu": sacrebleu.corpus_bleu(written, [references]).score,
        "chrf": sacrebleu.corpus_chrf(written, [references]).score,
        "rouge_l": 100 * np.mean([scorer.score(r, w)["rougeL"].fmeasure for w, r in zip(written, references)]),  # noqa: B905
        "exact_match": np.mean([w == r for w, r in zip(written, references)]),  # noqa: B905
    }


def test_scores_are_those_of_sacrebleu_and_rouge_score():
    assert scores(WRITTEN, REFERENCES) == pytest.approx(quoted(WRITTEN, REFERENCES))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_they_are_for_whatever_is_written(pairs):
    written, references = ([text.strip() for text in side] for side in zip(*pairs, strict=True))
    assert scores(written, references) == pytest.approx(quoted(written, references))


def test_counting_a_text_twice_is_having_it_twice():
    twice = [0, 0, 1, 4]
    expected = scores([WRITTEN[i] for i in twice], [REFERENCES[i] for i in twice])
    assert scores(WRITTEN, REFERENCES, [2, 1, 0, 0, 1]) == pytest.approx(expected)


def test_a_perfect_and_a_hopeless_text():
    text = ["the cat sat on the mat today"]
    assert scores(text, text) == pytest.approx({"bleu": 100, "chrf": 100, "rouge_l": 100, "exact_match": 1})
    assert set(scores(["x y z"], ["c d"]).values()) == {0.0}


def test_rouge_l_on_a_case_worked_out_by_hand():
    # longest common subsequence "a c d": precision 3/3, recall 3/4
    assert scores(["a c d"], ["a b c d"])["rouge_l"] == pytest.approx(100 * 2 * 0.75 / 1.75)


def test_white_space_at_the_ends_does_not_count():
    assert scores([" a b\n"], ["a b"])["exact_match"] == 1
    assert scores(["a  b"], ["a b"])["exact_match"] == 0
