"""What stands on a page, and what does not."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import pytest
from support.reports import HOSTILE, aggregate, audit, evaluation, given, plan, run_told, update_audit

from fedlpp_cli.reporting.compose import compose, figures_of
from fedlpp_cli.reporting.content import Listing
from fedlpp_cli.reporting.page import html_of
from fedlpp_cli.reporting.story import Story

_VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Elements with their attributes, and text; fails where elements do not close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def everything(**options):
    story = run_told(reason="too large", private=True, **options)
    cheaper = audit((0.4, 0.5), n_bytes=60_000)
    reports = (
        given(evaluation(), "scores", number=1),
        given(audit(), "3bits", number=2),
        given(cheaper, "2bits", number=3),
        given(aggregate(["bank"]), "one", number=4),
        given(plan(), "plan", None, number=5),
        given(update_audit(), "bank", number=6),
    )
    return replace(story, reports=reports)


def test_a_run_with_everything_has_all_sections():
    page = compose(everything())
    assert [section.title for section in page.sections] == [
        "Scores", "Privacy of the model: 3bits", "Privacy of the model: 2bits", "Privacy frontier",
        "Privacy of the rows behind an update", "Plan", "Aggregate: one", "Training", "Clients", "Updates",
        "Differential privacy", "Lineage",
    ]  # fmt: skip
    assert page.missing == ()


def test_a_run_alone_says_how_to_get_the_rest():
    page = compose(run_told())
    assert [section.title for section in page.sections] == ["Training", "Clients", "Updates", "Lineage"]
    assert [one.title for one in page.missing] == [
        "Scores", "Privacy of the model", "Privacy frontier", "Differential privacy",
    ]  # fmt: skip
    assert "fedlpp evaluate " in html_of(page)
    assert page.verdict.startswith("Not audited")


def test_a_report_alone_misses_nothing():
    page = compose(Story("f" * 64, None, (), (given(audit()),)))
    assert [section.title for section in page.sections] == ["Privacy of the model", "Lineage"]
    assert page.missing == ()
    assert page.key[:3] == (("0.780", "accuracy, central"), ("0.750", "accuracy, proxy"), ("0.310", "accuracy, base"))
    assert ("0.970", "recovery ratio, worst attack: average") in page.key


def test_the_newest_audit_gives_the_verdict():
    older = msgspec.structs.replace(audit(words="older"), n_rounds=2)
    page = compose(Story("f" * 64, None, (), (given(older, "a", number=1), given(audit(words="newer"), "b", number=2))))
    assert page.verdict == "b: unprotected newer"


@pytest.mark.parametrize("n_clients", [2, 60])
def test_equal_stories_give_equal_pages_and_figures_have_names_of_their_own(n_clients):
    clients = [f"client-{number:02d}" for number in range(n_clients)]
    page = compose(everything(clients=clients))
    assert html_of(page) == html_of(compose(everything(clients=clients)))
    names = [figure.name for figure in figures_of(page)]
    assert len(names) == len(set(names)) >= 8
    assert all(figure.table.rows and figure.about and figure.title for figure in figures_of(page))


def test_nothing_on_the_page_runs_or_is_fetched():
    found = Reader(html_of(compose(everything())))
    tags = {name for name, _ in found.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "img", "image", "use", "base", "form", "a"}
    attributes = {(name, value) for _, given_ in found.elements for name, value in given_.items()}
    assert not [
        name for name, _ in attributes if name.startswith("on") or name in {"src", "href", "xlink:href", "style"}
    ]
    assert {value for name, value in attributes if "://" in (value or "")} == {"http://www.w3.org/2000/svg"}
    policy = next(one["content"] for name, one in found.elements if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_what_a_stranger_wrote_is_text():
    story = run_told(reason=HOSTILE)
    evaluated = evaluation(detail=HOSTILE, per_class=True)
    reports = (given(audit(words=HOSTILE), HOSTILE, number=1), given(evaluated, HOSTILE, number=2),
               given(aggregate(["bank"], reason=HOSTILE), HOSTILE, number=3),
               given(plan(words=HOSTILE), HOSTILE, number=4), given(plan((0.5,), words=HOSTILE), HOSTILE, number=5),
               given(update_audit(words=HOSTILE), HOSTILE, number=6),
               given(update_audit(auc=None, span=None, words=HOSTILE), HOSTILE, number=7))  # fmt: skip
    page = html_of(compose(replace(story, reports=reports)))
    found = Reader(page)
    assert "script" not in {name for name, _ in found.elements}
    assert any("<script>alert(1)</script>" in words for words in found.texts)
    assert not re.search("[\u202e\x1b\uffff]", page)
    assert r"\u202e" in page


def test_every_figure_can_be_heard():
    found = Reader(html_of(compose(everything())))
    figures = [one for name, one in found.elements if name == "svg"]
    ids = {one.get("id") for _, one in found.elements}
    assert figures
    assert all(one["role"] == "img" and set(one["aria-labelledby"].split()) <= ids for one in figures)


def test_reports_of_kinds_without_a_section_are_shown_by_their_fields():
    page = compose(Story(None, None, (), (given(aggregate(["bank", "port"], reason="odd"), "how", federation=None),)))
    shown = html_of(page)
    assert page.title == "Report how"
    assert page.sections[0].title == "Aggregate: how"
    assert all(words in shown for words in ("bank", "port", "odd", "update norm", "server optimizer", "sgd"))
    listed = {part.title: part.table for part in page.sections[0].parts if isinstance(part, Listing)}
    assert listed["clients"].head[:2] == ("client", "update")
    assert listed["clients"].rows[0][:2] == ("bank", "000000000000")
    assert "product norm" not in listed["clients"].head


def test_an_evaluation_of_one_round_is_side_by_side():
    figure = figures_of(compose(Story(None, None, (), (given(evaluation(1), federation=None),))))[0]
    assert [row.label for row in figure.rows] == ["central, round 3", "proxy, round 3", "alone", "base"]


def test_an_evaluation_of_several_rounds_is_over_rounds():
    figure = figures_of(compose(Story(None, None, (), (given(evaluation(4), federation=None),))))[0]
    assert [(series.name, len(series.points)) for series in figure.series] == [("central", 4), ("proxy", 4)]
    assert [level.label for level in figure.levels] == ["base", "alone"]


def test_the_same_model_in_two_reports_is_there_once():
    twice = (given(evaluation(4), "a", number=1), given(evaluation(4, per_class=True), "b", number=2))
    figure = figures_of(compose(Story("f" * 64, None, (), twice)))[0]
    assert [len(series.points) for series in figure.series] == [4, 4]


def test_the_frontier_has_audits_and_proxies_over_bytes():
    figures = {figure.name: figure for figure in figures_of(compose(everything()))}
    series = {one.name: one for one in figures["frontier"].series}
    assert [point.x for point in series["proxy, by rounds"].points] == [20_000, 40_000, 60_000, 80_000]
    assert series["proxy, by rounds"].points[3].y == pytest.approx(
        (0.78 - 0.45 / 16 - 0.03 - 0.31) / (0.47 - 0.45 / 16), rel=1e-5
    )
    assert series["3bits: average"].points[0].y == 0.97
    assert [level.label for level in figures["frontier"].levels] == ["base", "allowed: 0.5", "owner's model"]


def test_a_central_that_is_not_told_from_base_has_no_ratio():
    story = replace(run_told(), reports=(given(audit((None,))),))
    assert "frontier" not in {figure.name for figure in figures_of(compose(story))}
    assert "No attack has a recovery ratio" in html_of(compose(story))


def test_many_clients_are_a_cloud_and_the_smallest_shares_a_sentence():
    clients = [f"client-{number:02d}" for number in range(60)]
    figures = {figure.name: figure for figure in figures_of(compose(everything(clients=clients)))}
    cloud = figures["norms"].series[0]
    assert (cloud.name, len(cloud.points)) == ("60 clients", 240)
    assert len(figures["contribution"].rows) == 24
    assert "The 36 other clients had 60 % together." in figures["contribution"].about


def test_what_was_left_out_is_listed_and_counted():
    page = html_of(compose(run_told(reason="norm 7 is above 3")))
    assert "norm 7 is above 3" in page
    assert "left out of 12 updates" in page
    assert "none was left out" in html_of(compose(run_told()))


def test_epsilons_are_drawn_for_clients_and_for_rows():
    figures = {figure.name: figure for figure in figures_of(compose(run_told(private=True)))}
    assert [point.y for point in figures["epsilon-clients"].series[0].points] == [2.0, 4.0, 6.0, 8.0]
    assert [series.name for series in figures["epsilon-examples"].series] == ["bank", "port"]


def test_a_page_about_very_many_clients_stays_small():
    page = html_of(compose(run_told(10, [f"client-{number:03d}" for number in range(500)], private=True)))
    assert len(page) < 1_000_000
    assert "The first 400 of 5,000 rows; the artifacts have all of them." in page
