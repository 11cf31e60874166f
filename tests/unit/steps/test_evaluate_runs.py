"""Run folders round by round, several federations under one name, private bases."""

import shutil
import statistics

import pytest
from support.forge import sha256_of
from support.parties import Federation

from fedlpp_cli import evaluate
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.errors import InputError, LineageError, UsageError
from fedlpp_cli.models import open_one
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama):
    """A federation after three rounds, whose last master has not been sent."""
    federation = Federation(tmp_path_factory.mktemp("run"), llama)
    federation.play(3)
    return federation


def score(federation, *artifacts, **options):
    return evaluate(
        artifacts or (federation.folder,), data=federation.data("b"), base=federation.base, device="cpu", **options
    )


def test_a_run_has_a_row_for_each_rounds_proxy_and_central(run):
    result = score(run)
    found = [(row.model, row.round) for row in result.rows]
    assert found == [("base", None), *((name, number) for number in range(4) for name in ("proxy", "central"))]
    # Rows of rounds that were sent are of what was sent; the last master's proxy is made as the last was.
    for row in result.rows[1:]:
        path = run.master(row.round) if row.role == "central" or row.round == 3 else run.proxy(row.round)
        assert row.artifact == sha256_of(path)
    single = {row.model: row.scores for row in score(run, run.master(2)).rows}
    assert {row.model: row.scores for row in result.rows if row.round == 2} == {
        name: single[name] for name in ("proxy", "central")
    }
    assert result.rows[2].scores["loss"] == pytest.approx(result.rows[0].scores["loss"])  # nothing learned in round 0


def test_gaps_are_of_each_round_and_the_first_number_of_the_newest(run, tmp_path):
    result = score(run, out=tmp_path / "report.json")
    assert [(gap.name, gap.round) for gap in result.gaps] == [("recv", number) for number in range(4)]
    assert result.gap == result.gaps[-1].value == score(run, run.master(3)).gap
    report = read_report(tmp_path / "report.json").header
    assert report.round == 3
    assert report.federation == sha256_of(run.master(0))
    assert set(report.parents["scored"]) == {row.artifact for row in result.rows} - {None}


def test_what_is_said_of_masters_one_by_one_is_said_of_the_newest(run, tmp_path):
    result = score(run, *(run.master(number) for number in (1, 3, 0)), out=tmp_path / "report.json")
    single = score(run, run.master(3))
    assert (result.gap, result.recovery) == (single.gap, single.recovery)
    assert read_report(tmp_path / "report.json").header.round == 3
    # A name of its own is another model's, however new.
    other = score(run, run.master(1), f"later={run.master(3)}")
    assert (other.gap, other.recovery) == (score(run, run.master(1)).gap, score(run, run.master(1)).recovery)


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 2, 3]), (3, [0, 3]), (100, [0, 3])])
def test_every_so_many_rounds_and_the_last(run, every, expected):
    assert sorted({row.round for row in score(run, every=every).rows} - {None}) == expected


def test_the_model_is_opened_once(run, monkeypatch):
    opened = []
    real = open_one.open_model
    monkeypatch.setattr(open_one, "open_model", lambda *args, **options: opened.append(1) or real(*args, **options))
    score(run)
    assert opened == [1]


def test_proxies_are_made_anew_where_their_rounding_is_told(run):
    rows = score(run, quantize=QuantSpec(bits="ternary")).rows
    assert {row.detail.partition(", ")[2] for row in rows if row.role == "proxy"} == {"ternary, block 64"}
    assert [row.artifact for row in rows if row.role == "proxy"] == [sha256_of(run.master(n)) for n in range(4)]


def test_a_run_knows_its_recipe(run):
    result = score(run, alone_on={"a": run.data("a")}, fine_tune_on={"a": run.data("a")})
    alone, tuned = result.rows[-2:]
    assert alone.detail == "9 steps on 12 rows: 3 rounds of 3"
    assert (tuned.round, tuned.detail) == (3, "round 3, 3 steps on 12 rows")
    assert {gap.round for gap in result.gaps if gap.name != "recv"} == {3}


def test_a_private_run_has_its_base_with_it(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, private_base=True, base_quantize=BaseQuantSpec(format="nf3"))
    federation.play(1)
    result = score(federation, alone_on={"a": federation.data("a")})
    assert [row.model for row in result.rows] == ["base", "proxy", "central", "proxy", "central", "a alone"]
    given = score(federation, federation.master(1), base_artifact=federation.folder / "base")
    by_name = {row.model: row.scores for row in given.rows}
    # The base row is the owner's base, not what clients see of it.
    assert result.rows[0].scores == by_name["base"]
    assert result.rows[3].scores == by_name["proxy"]


def test_one_artifact_twice_is_no_spread(run):
    result = score(run, f"ours={run.master(1)}", f"ours={run.master(1)}", f"other={run.master(2)}")
    assert result.spreads == ()
    details = [row.detail for row in result.rows if row.model == "ours central"]
    assert details == ["round 1, 1 of 2", "round 1, 2 of 2"]


def test_a_spread_is_of_the_rows(run, llama, tmp_path):
    other = Federation(tmp_path / "other", llama, clients=("a",))
    other.play(1)
    result = score(run, f"ours={run.master(1)}", f"ours={other.master(1)}")
    losses = [row.scores["loss"] for row in result.rows if row.model == "ours central"]
    (spread,) = [one for one in result.spreads if one.role == "central"]
    assert spread.mean["loss"] == pytest.approx(statistics.fmean(losses), rel=1e-5)
    assert spread.sd["loss"] == pytest.approx(statistics.stdev(losses), rel=1e-4)
    assert len([gap for gap in result.gaps if gap.name == "recv"]) == 2


def test_runs_of_one_name_are_compared_round_by_round(run, llama, tmp_path):
    other = Federation(tmp_path / "other", llama, clients=("a",))
    other.play(1)
    result = score(run, f"ours={run.folder}", f"ours={other.folder}")
    # Both begin with the same master; what they have in common is round 1.
    assert {(one.model, one.round) for one in result.spreads} == {("ours proxy", 1), ("ours central", 1)}


def test_run_folders_that_cannot_be_scored(run, gpt2, tmp_path):
    with pytest.raises(InputError, match="no round-0000 in it"):
        score(run, tmp_path)
    with pytest.raises(InputError, match="No such file"):
        score(run, tmp_path / "nowhere")
    (tmp_path / "client").mkdir()
    shutil.copytree(run.round(0), tmp_path / "client" / "round-0000")
    (tmp_path / "client" / "round-0000" / "master.safetensors").unlink()
    with pytest.raises(InputError, match="no master in it"):
        score(run, tmp_path / "client")
    with pytest.raises(UsageError, match="--every 0"):
        score(run, every=0)
    mixed = tmp_path / "mixed"
    shutil.copytree(run.round(0), mixed / "round-0000")
    other = Federation(tmp_path / "other", gpt2)
    other.play(1)
    shutil.copytree(other.round(1), mixed / "round-0001")
    with pytest.raises(LineageError, match="2 federations in one run folder"):
        score(run, mixed)
