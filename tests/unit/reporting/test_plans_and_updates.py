"""Pages about plans, and about audits of updates: what each section says, with and without numbers."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as altered
from support.reports import audit, evaluation, given, plan, run_told, update_audit

from fedlpp_cli.records.plans import PlanTargets
from fedlpp_cli.records.privacy import ExamplePrivacy
from fedlpp_cli.reporting.compose import compose, figures_of
from fedlpp_cli.reporting.content import Facts, Listing
from fedlpp_cli.reporting.page import html_of
from fedlpp_cli.reporting.story import Story


def page_of(*specs):
    reports = tuple(given(spec, f"report {number}", None, number) for number, spec in enumerate(specs))
    return compose(Story(None, None, (), reports))


def named(page):
    return {figure.name: figure for figure in figures_of(page)}


def listed(page, title):
    return next(
        part.table for one in page.sections for part in one.parts if isinstance(part, Listing) and part.title == title
    )


def facts(page):
    return dict(row for one in page.sections for part in one.parts if isinstance(part, Facts) for row in part.rows)


def test_a_plan_shows_its_frontier_with_the_choice_marked():
    page = page_of(plan())
    assert (page.title, page.lead) == ("Report report 0", "report of a plan · classification into 2 classes · 60 rows")
    assert page.verdict.startswith("chosen or not")
    figures = named(page)
    privacy = figures["plan-privacy"]
    assert [(one.name, one.style) for one in privacy.series] == [
        ("chosen: setting 1", 1),
        ("setting 0", 0),
        ("setting 2", 2),
    ]
    assert [(point.x, point.y) for one in privacy.series for point in one.points] == [
        (39_000, 0.8), (40_000, 0.99), (38_000, 0.6),
    ]  # fmt: skip
    assert [level.label for level in privacy.levels] == ["base", "owner's model", "allowed: 0.9"]
    assert [level.label for level in figures["plan-quality"].levels] == ["without rounding"]
    rows = listed(page, "Simulated settings").rows
    assert [row[:2] for row in rows] == [("setting 0", ""), ("setting 1", "chosen"), ("setting 2", "not beaten")]
    assert ("other", "no time ") in [row[:2] for row in listed(page, "Every setting").rows]
    kinds = {one.name: [point.x for point in one.points] for one in figures["plan-gradients"].series}
    assert kinds == {"chosen": [39_000], "simulated": [38_000, 40_000], "not simulated": [9_000]}
    assert page.key == (
        ("0.800", "recovery ratio of what is chosen"), ("39.0 kB", "to each client in a round"),
        ("0.690", "accuracy, chosen"), ("0.720", "accuracy, without rounding"), ("0.200", "accuracy, base"),
    )  # fmt: skip


def test_a_plan_says_what_was_asked_for():
    assert facts(page_of(plan()))["asked for"] == "a recovery ratio of 0.9 at most"
    targets = PlanTargets(max_bytes_down=2_000_000, max_loss_increase=0.25)
    page = page_of(altered(plan(targets=targets), headline="loss"))
    assert facts(page)["asked for"] == "2.0 MB down in a round at most, a loss 0.25 higher at most"
    assert [(level.label, level.value) for level in named(page)["plan-quality"].levels] == [
        ("without rounding", 1.4), ("allowed", 1.65),
    ]  # fmt: skip
    assert facts(page_of(plan(targets=PlanTargets(max_rho=None))))["asked for"].startswith("nothing;")


def test_a_plan_without_a_choice_or_a_ratio_has_no_frontier():
    page = page_of(altered(plan((None, None), chosen=None), gain=-0.1))
    assert facts(page)["chosen"] == "none"
    assert "plan-privacy" not in named(page)
    assert "No setting has a recovery ratio" in html_of(page)
    assert "rho newest" not in html_of(page)  # nobody needs a column of nothing
    assert "recovery ratio of what is chosen" not in html_of(page)


def test_a_plan_that_had_no_time_lists_what_it_measured():
    page = page_of(plan((), chosen=None))
    assert set(named(page)) == {"plan-gradients"}
    assert [row[0] for row in listed(page, "Every setting").rows] == ["other"]


def test_many_settings_are_told_by_what_became_of_them():
    page = page_of(plan([0.5 + number / 50 for number in range(12)], chosen=3))
    series = {one.name: len(one.points) for one in named(page)["plan-privacy"].series}
    assert series == {"beaten by another": 1, "to compare with": 0, "not beaten": 10, "chosen": 1}


def test_an_update_shows_how_far_each_test_comes():
    page = page_of(update_audit())
    assert page.lead == "report of an audit of an update · classification into 2 classes · 40 rows"
    figure = named(page)["update-tells"]
    assert [(row.label, row.value) for row in figure.rows] == [
        ("which rows", 0.76), ("which words, by span", 0.75), ("which words, by what became likelier", 0.0),
        ("how frequent classes are", 1.0),
    ]  # fmt: skip
    assert (figure.rows[0].low, figure.rows[0].high) == pytest.approx((0.66, 0.86))
    assert figure.table.rows[1] == ("which words, by span", "30 of 90 tokens; 8 directions", 0.9, 0.6, None, None)
    told = facts(page)
    assert told["privacy for examples"] == "none: the update has no noise"
    assert told["rows found at one false alarm in a hundred"] == "6.6 %"
    assert told["allowed AUC"] == "0.6 at most"
    exposed = named(page)["canaries"]
    assert [(row.label, row.value) for row in exposed.rows] == [
        ("without noise, mean", 3.2), ("without noise, highest", 6.4), ("noise 0.5, mean", 1.9),
        ("noise 0.5, highest", 3.8),
    ]  # fmt: skip
    assert [row[-1] for row in listed(page, "Rows of random words").rows] == ["nothing", "7.996"]
    assert listed(page, "What would let it tell less").rows == (("noise ",), ("more rows",))
    assert page.key[0] == ("0.880", "AUC of telling its rows from others; 0.5 is chance")
    assert page.key[-1] == ("none", "epsilon that it promises for single rows")


def test_what_an_update_promises_is_said():
    privacy = ExamplePrivacy(
        noise_multiplier=0.5, max_grad_norm=1.0, sampling_rate=0.1, n_steps=24, delta=1e-5, epsilon=7.5
    )
    page = page_of(altered(update_audit(), privacy=privacy))
    assert facts(page)["privacy for examples"] == "epsilon 7.5 at delta 1e-05, noise multiplier 0.5"
    assert page.key[-1][0] == "7.5"


def test_an_update_that_could_not_be_tested_says_why():
    page = page_of(altered(update_audit(auc=None, span=None), labels=None))
    assert named(page) == {}
    assert listed(page, "Not tested").rows == (("words", "no span "), ("rows", "too few "))
    assert "No test could be made" in html_of(page)


def test_several_of_one_kind_are_told_apart():
    page = page_of(plan(), plan((0.5,), chosen=0), update_audit(), update_audit(auc=0.6))
    assert [one.title for one in page.sections if one.title != "Lineage"] == [
        "Privacy of the rows behind an update: report 2", "Privacy of the rows behind an update: report 3",
        "Plan: report 0", "Plan: report 1",
    ]  # fmt: skip
    names = [figure.name for figure in figures_of(page)]
    assert len(names) == len(set(names)) == 10
    assert page.verdict.startswith("report 0: chosen or not")


def test_a_run_is_not_judged_by_its_plan_or_by_a_clients_audit():
    story = replace(run_told(), reports=(given(plan(), "plan", None), given(update_audit(), "bank", number=2)))
    page = compose(story)
    assert page.verdict.startswith("Not audited")
    assert not [what for _, what in page.key if "chosen" in what or "AUC" in what]


def test_an_evaluation_says_what_follows_from_its_scores():
    from fedlpp_cli.records.reports import Gap, Interval, ProxyRecovery

    gap = Gap(
        name="recv", ahead="central", behind="proxy", round=3, master="a" * 64, value=0.03,
        interval=Interval(low=0.02, high=0.04),
    )  # fmt: skip
    old = altered(gap, round=2, value=0.1)
    undefined = ProxyRecovery(rho=None, rho_interval=None, gain=0.0, gain_interval=None)
    told = facts(page_of(altered(evaluation(4), gaps=(old, gap), recovery=undefined)))
    assert told["central ahead of proxy by"] == "0.03 [0.02, 0.04] in accuracy"
    assert told["recovery ratio of the proxy"] == "none: central is not told from base on these rows"
    known = altered(undefined, rho=0.9, rho_interval=Interval(low=0.8, high=1.0))
    assert facts(page_of(altered(evaluation(4), recovery=known)))["recovery ratio of the proxy"] == "0.9 [0.8, 1]"


def test_a_fine_tuned_proxy_is_a_row_like_others():
    report = evaluation(1)
    tuned = altered(report.rows[0], model="tuned", role="fine-tuned", round=3)
    page = page_of(altered(report, rows=(*report.rows, tuned)))
    assert "tuned, round 3" in [row.label for row in named(page)["scores"].rows]
    over_rounds = altered(evaluation(4), rows=(*evaluation(4).rows, tuned))
    assert "tuned" in [level.label for level in named(page_of(over_rounds))["scores"].levels]


def test_the_frontier_has_the_next_proxy_where_its_master_was_audited():
    scored = evaluation(5)
    newest = next(row.artifact for row in scored.rows if row.role == "central" and row.round == 4)
    audited = given(audit((0.9,), n_bytes=99_000), "audit", number=2)
    story = replace(run_told(), reports=(given(scored, "scores", number=1), audited))
    points = [one.points for one in named(compose(story))["frontier"].series if one.name == "proxy, by rounds"]
    assert [point.x for point in points[0]] == [20_000, 40_000, 60_000, 80_000]
    header = altered(audited.header, parents={"master": (newest,)})
    story = replace(story, reports=(story.reports[0], replace(audited, header=header)))
    points = [one.points for one in named(compose(story))["frontier"].series if one.name == "proxy, by rounds"]
    assert [point.x for point in points[0]] == [20_000, 40_000, 60_000, 80_000, 99_000]


def test_what_does_not_count_is_hollow_and_not_on_the_frontier():
    report = audit((0.9, 0.97, 0.2))
    apart = altered(report, rows=(*report.rows[:2], altered(report.rows[2], counts=False)))
    figures = named(compose(replace(run_told(), reports=(given(apart), given(evaluation(), number=2)))))
    assert [(row.value, row.style) for row in figures["recovery"].rows] == [(0.97, 1), (0.9, 0), (0.2, 6)]
    audited = [one for one in figures["frontier"].series if one.name != "proxy, by rounds"]
    assert sorted(point.y for one in audited for point in one.points) == [0.9, 0.97]
