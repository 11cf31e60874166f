"""What an audit comes to, in words."""

import pytest
from msgspec.structs import replace

from fedlpp_cli.evaluation.recovery import Recovery
from fedlpp_cli.leakage.verdict import exceeds, verdict, worst_row
from fedlpp_cli.records.audits import AttackRow
from fedlpp_cli.records.reports import Interval

TAUGHT = Recovery(1.0, Interval(low=1.0, high=1.0), 0.5, Interval(low=0.4, high=0.6))


def row(rho, attack="proxy", *, counts=True, skipped=None, variant="newest"):
    interval = None if rho is None else Interval(low=rho - 0.05, high=rho + 0.05)
    return AttackRow(
        attack=attack, variant=variant, knows="the newest package", rho=rho, rho_interval=interval, counts=counts,
        skipped=skipped,
    )  # fmt: skip


def said(*rows, max_rho=None, central=TAUGHT):
    return verdict(rows, central, max_rho=max_rho, n_examples=40)


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        (0.97, "NOT PROTECTED: who takes the newest proxy as it is (newest) has 97 % (92 to 102 %) of what this"),
        (1.2, "has all of what this federation taught the model, and more: 120 % (115 to 125 %)."),
        (0.7, "PARTLY PROTECTED: who takes"),
        (0.2, "PROTECTED against these attacks: who takes"),
        (-0.3, "has none of what this federation taught the model."),
    ],
)
def test_how_much_is_lost_is_said_in_words(rho, words):
    assert words in said(row(rho))


def test_the_worst_that_counts_is_what_is_judged():
    rows = (row(0.3), row(0.6, "average"), row(0.9, "replay", counts=False), row(None, skipped="no reason"))
    assert worst_row(rows) == 1
    text = said(*rows)
    assert text.startswith("PARTLY PROTECTED: who averages proxies")
    assert "Not counted: 90 % with the newest package (replay, newest)." in text


def test_of_two_equal_ones_the_first_is_named():
    assert worst_row((row(0.5), row(0.5, "average"))) == 0


def test_what_a_client_does_without_anybody_is_told_beside_it():
    alone = replace(row(0.8, "fine-tune", counts=False), knows="no package, and north's 9 rows")
    assert "Without any package, training on north's 9 rows gives 80 %." in said(row(0.9), alone)


def test_where_nothing_was_taught_nothing_is_judged():
    same = Recovery(None, None, 0.001, Interval(low=-0.01, high=0.012))
    text = said(row(None), central=same, max_rho=0.0)
    assert text == (
        "NOTHING TO PROTECT: central is not told from base on these 40 rows (the gain is 0.001, -0.01 to 0.012)."
    )


def test_what_was_not_tried_for_lack_of_time_is_counted():
    skipped = row(None, "fine-tune", skipped="--budget: it would take about 3.0 minutes, 1.0 of 2 are left")
    assert "1 of the attacks that count did not fit into --budget." in said(row(0.1), skipped)
    assert said(skipped) == "NOT JUDGED: no attack that counts was tried."
    assert "By what was tried the next package may go" in said(row(0.1), skipped, max_rho=0.5)
    assert "By what was tried" not in said(row(0.1), max_rho=0.5)


@pytest.mark.parametrize(("max_rho", "fails"), [(None, False), (0.6, False), (0.59, True), (0.61, False)])
def test_the_limit_itself_is_allowed(max_rho, fails):
    assert exceeds(row(0.6), max_rho) is fails
    assert not exceeds(None, max_rho)
    text = said(row(0.6), max_rho=max_rho)
    assert ("Do not send" in text, "may go" in text) == (fails, max_rho is not None and not fails)
