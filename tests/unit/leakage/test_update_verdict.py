"""What the tests mean, in words."""

from fedlpp_cli.leakage.update_verdict import advice, verdict
from fedlpp_cli.records.audits import CanaryTest, LabelRecovery, Membership, RowRecovery, TokenRecovery
from fedlpp_cli.records.reports import Interval


def words(recovered, *, exact=True, frequency=None):
    return TokenRecovery(
        n_tokens=10, n_candidates=100, rank=5, is_exact=exact, by_span=recovered, by_span_auc=0.9, by_chance=0.1,
        by_frequency=frequency,
    )  # fmt: skip


def rows(auc, low):
    return Membership(
        of="update", n_members=50, n_others=50, auc=auc, auc_interval=Interval(low=low, high=1.0),
        true_positive_rate=0.1,
    )  # fmt: skip


def canaries(exposure, *, noise=None, bound=0.0, epsilon=None):
    return CanaryTest(
        noise_multiplier=noise, n_canaries=32, n_references=500, exposure_mean=exposure, exposure_max=9.0, auc=0.9,
        n_guesses=32, n_right=32, epsilon_bound=bound, epsilon=epsilon, delta=1e-5,
    )  # fmt: skip


def helps(tokens, found, tests=(), **options):
    return advice(tokens, found, tests, **{"n_examples": 500, "n_passes": 1.0, "is_private": False, **options})


QUIET = (words(0.12), rows(0.55, 0.45))


def test_an_update_that_tells_nothing_needs_no_advice():
    assert verdict(QUIET[0], None, QUIET[1], ()) == (
        "Which rows were trained on cannot be told here. No words beyond what one guesses of the rows come out of it. "
        "Stronger tests may find more."
    )
    assert helps(*QUIET) == ()


def test_everything_that_is_told_is_said():
    labels = LabelRecovery(n_classes=2, n_pairs=1, in_order=1.0, most_frequent=True)
    text = verdict(words(0.8), labels, rows(0.9, 0.8), [canaries(6.0), canaries(1.4, noise=1.0, epsilon=2.0)])
    for part in ("can be told.", "Most words", "most frequent class", "without noise remembers", "noise hardly"):
        assert part in text
    lines = helps(words(0.8), rows(0.9, 0.8), n_examples=8, n_passes=30.0)
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == [
        "noise", "fewer steps or epochs", "more rows than these 8", "larger batches",
    ]  # fmt: skip


def test_words_that_anybody_would_guess_do_not_count():
    assert "Some words" in verdict(words(0.5), None, rows(0.5, 0.4), ())
    assert "No words" in verdict(words(0.5, frequency=0.5), None, rows(0.5, 0.4), ())


def test_an_area_that_chance_could_give_is_not_told():
    assert "cannot be told" in verdict(words(0.1), None, rows(0.8, 0.49), ())
    alone = Membership(of="update", n_members=1, n_others=20, auc=0.9, true_positive_rate=0.0)
    assert "cannot be told" in verdict(words(0.1), None, alone, ())


def test_only_canaries_of_a_training_like_the_update_count():
    both = [canaries(6.0), canaries(1.4, noise=1.0, epsilon=2.0)]
    assert helps(*QUIET, both, is_private=True) == ()
    assert helps(*QUIET, both) == ("noise: client-train --dp-epsilon",)


def test_a_refuted_promise_comes_first():
    found = [canaries(6.0, noise=1.0, bound=2.5, epsilon=2.0)]
    lines = helps(*QUIET, found, is_private=True)
    assert lines[0].startswith("the epsilon that was promised is refuted")
    assert lines[1] == "more noise: a smaller --dp-epsilon"


def test_a_test_that_was_not_made_says_nothing():
    skipped = TokenRecovery(skipped="mixed"), Membership(of="training like it", skipped="few")
    assert verdict(skipped[0], None, skipped[1], ()) == "Stronger tests may find more."
    assert helps(*skipped) == ()


def rebuilt(in_order, *, by_chance=0.1, of="update", cut=False):
    return RowRecovery(
        of=of, found=0.9, found_by_chance=0.2, in_order=in_order, in_order_by_chance=by_chance, was_cut=cut
    )


def test_what_is_rebuilt_is_said_beyond_chance():
    searches = [rebuilt(0.9), rebuilt(0.15, of="training like it")]
    text = verdict(*QUIET[:1], None, QUIET[1], (), searches)
    assert "Most of the rows' text beyond chance is rebuilt in order from it." in text
    assert "Nothing beyond chance is rebuilt in order from a training like it with noise." in text
    assert "Nothing" in verdict(QUIET[0], None, QUIET[1], (), [rebuilt(0.9, by_chance=0.9)])
    assert "in the time it had" in verdict(QUIET[0], None, QUIET[1], (), [rebuilt(0.0, cut=True)])


def test_a_rebuilt_row_of_the_update_needs_help_and_one_of_a_rehearsal_does_not():
    assert helps(*QUIET, rebuilt=[rebuilt(0.5)])[0].startswith("noise")
    assert helps(*QUIET, rebuilt=[rebuilt(0.1), rebuilt(0.9, of="training like it")]) == ()
