"""`report` on a real run, on reports, and on what it refuses."""

import shutil
import stat

import pytest
from support.forge import sha256_of
from support.parties import Federation
from support.reports import audit, evaluation

from fedlpp_cli import report
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.errors import (
    ArtifactError,
    InputError,
    LineageError,
    OutputExistsError,
    UsageError,
)
from fedlpp_cli.records.headers import ReportHeader


@pytest.fixture
def run(played, tmp_path):
    """A copy of the run that was played, to put things into."""
    shutil.copytree(played.folder, tmp_path / "run")
    return Federation(tmp_path / "run", played.base)


def put(path, spec, federation):
    write_report(path, ReportHeader(federation=federation, round=1, parents={}, spec=spec))
    return path


@pytest.fixture
def federation(played):
    return sha256_of(played.master(0))


def test_a_run_alone(run, federation, tmp_path):
    made = report([run.folder], out=tmp_path / "page.html")
    assert made.sections == ("Training", "Clients", "Updates", "Lineage")
    assert made.federation == federation
    shown = (tmp_path / "page.html").read_text()
    assert federation[:12] in shown
    assert sha256_of(run.master(1))[:12] in shown
    assert all(sha256_of(path)[:12] in shown for path in run.updates(0))
    assert made.n_bytes == (tmp_path / "page.html").stat().st_size
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


def test_reports_in_the_run_are_found_and_others_may_be_named(run, federation, tmp_path):
    put(run.folder / "evaluate.json", evaluation(2), federation)
    put(run.folder / "reports" / "audit.json", audit(), federation)
    put(run.folder / "round-0001" / "late.json", audit((0.2, 0.3)), federation)
    (run.folder / "attack.json").write_text('{"kind": "other"}')
    (run.folder / "notes.json").write_text("no JSON")
    other = put(tmp_path / "cheap.json", audit((0.1,), n_bytes=1000), federation)
    made = report([run.folder, f"one bit={other}"], out=tmp_path / "page.html")
    assert [title for title in made.sections if title.startswith("Privacy of")] == [
        "Privacy of the model: audit", "Privacy of the model: late", "Privacy of the model: one bit",
    ]  # fmt: skip
    assert {"Scores", "Privacy frontier"} <= set(made.sections)
    assert made.missing == ("Differential privacy",)


def test_equal_inputs_give_equal_bytes_wherever_they_lie(run, federation, tmp_path):
    put(run.folder / "audit.json", audit(), federation)
    report([run.folder], out=tmp_path / "a.html", plots=tmp_path / "a")
    shutil.move(run.folder, tmp_path / "elsewhere")
    report([tmp_path / "elsewhere"], out=tmp_path / "b.html", plots=tmp_path / "b")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a.html").read_text()
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"norms.svg", "recovery.svg", "training-loss.svg"} <= set(names)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_one_audit_makes_a_page(tmp_path):
    path = put(tmp_path / "audit.json", audit(), "a" * 64)
    made = report([path], out=tmp_path / "page.html")
    assert (made.sections, made.missing, made.figures) == (("Privacy of the model", "Lineage"), (), ("recovery",))


def test_an_open_round_of_a_client_makes_a_page(run, tmp_path):
    shutil.rmtree(run.round(1))
    run.master(0).unlink()
    made = report([run.folder], out=tmp_path / "page.html")
    assert made.sections == ("Training", "Lineage")


def test_federations_are_not_mixed(run, federation, tmp_path):
    other, own = put(tmp_path / "b.json", audit(), "b" * 64), put(tmp_path / "c.json", audit((0.1,)), federation)
    none = put(tmp_path / "n.json", evaluation(1), None)
    for sources in ([run.folder, other], [own, other], [none, other, own]):
        with pytest.raises(LineageError, match=r"(of|on) federation"):
            report(sources, out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert report([none, own], out=tmp_path / "page.html").federation == federation


def test_a_round_of_another_federation_is_refused(run, gpt2, tmp_path):
    stranger = Federation(tmp_path / "stranger", gpt2)
    stranger.play(1)
    shutil.copy(stranger.update(0, "a"), run.update(0, "c"))
    with pytest.raises(LineageError, match=r"c\.safetensors: of federation"):
        report([run.folder], out=tmp_path / "page.html")
    run.update(0, "c").unlink()
    shutil.copy(stranger.round(1) / "master.report.json", run.round(1) / "master.report.json")
    with pytest.raises(LineageError, match=r"report\.json: of federation"):
        report([run.folder], out=tmp_path / "page.html")


def test_what_cannot_be_reported_on(run, federation, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "page.html"
    with pytest.raises(UsageError, match="needs a run"):
        report([], out=out)
    with pytest.raises(UsageError, match="about one run"):
        report([run.folder, run.folder], out=out)
    with pytest.raises(InputError, match="no run folder"):
        report([tmp_path / "empty"], out=out)
    with pytest.raises(InputError):
        report([tmp_path / "gone.json"], out=out)
    with pytest.raises(ArtifactError):
        report([tmp_path / "bad.json"], out=out)
    (tmp_path / "notes.txt").write_text("hello")
    for path in (run.update(0, "a"), tmp_path / "notes.txt"):
        with pytest.raises(ArtifactError, match="no report, which is JSON"):
            report([path], out=out)
    (run.folder / "damaged.json").write_text('{"kind": "report"}')
    with pytest.raises(ArtifactError, match=r"damaged\.json"):
        report([run.folder], out=out)
    assert not out.exists()


def test_what_is_there_stays(run, federation, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.txt").write_text("mine")
    report([run.folder], out=tmp_path / "page.html", plots=tmp_path / "plots")
    for options in ({}, {"plots": tmp_path / "plots"}):
        with pytest.raises(OutputExistsError):
            report([run.folder], out=tmp_path / ("page.html" if not options else "other.html"), **options)
    assert not (tmp_path / "other.html").exists()
    report([run.folder], out=tmp_path / "page.html", plots=tmp_path / "plots", force=True)
    assert (tmp_path / "plots" / "mine.txt").read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "plots" / "norms.svg").stat().st_mode) == 0o600


def test_figures_do_not_go_to_the_hub(run, tmp_path):
    with pytest.raises(UsageError, match="a folder on this machine"):
        report([run.folder], out=tmp_path / "page.html", plots="hf://org/repo/plots")
