"""Reports: one canonical JSON file each."""

import hashlib
import os
import stat

import pytest

from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.report_file import read_report, write_report
from fedlpp_cli.errors import ArtifactError, InputError, LineageError, OutputError, OutputExistsError
from fedlpp_cli.records.headers import EvaluateReport, EvaluateRow, ReportHeader, encode_header
from fedlpp_cli.records.specs import TaskSpec

REPORT = ReportHeader(
    federation=None,
    round=0,
    parents={},
    spec=EvaluateReport(
        task=TaskSpec(),
        data="0" * 64,
        n_examples=1,
        n_cut=0,
        generation={},
        rows=(EvaluateRow(model="base", artifact=None, detail="hélas", scores={"loss": 0.1, "bleu": 1.0}),),
    ),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.json"


def test_a_report_reads_back_as_it_was_written(path):
    digest = write_report(path, REPORT)
    found = read_report(path)
    assert found.header == REPORT
    assert found.raw_header == path.read_bytes() == encode_header(REPORT)
    assert found.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.path == path
    assert open_any(path) == found


def test_equal_reports_have_equal_bytes(tmp_path):
    assert write_report(tmp_path / "a", REPORT) == write_report(tmp_path / "b", REPORT)


def test_a_report_is_not_written_over_unless_forced(path):
    write_report(path, REPORT)
    with pytest.raises(OutputExistsError):
        write_report(path, REPORT)
    write_report(path, REPORT, force=True, private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open"])
def test_a_report_that_cannot_be_written_leaves_nothing(path, monkeypatch, call):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(path, REPORT)
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\n",
        lambda raw: raw + raw,
        lambda raw: b" " + raw,
        lambda raw: raw.replace(b'"loss":0.1', b'"loss":0.10'),
        lambda raw: raw.replace(b'"loss":0.1', b'"loss":NaN'),
        lambda raw: raw.replace(b'"loss":0.1', b'"loss":"0.1"'),
        lambda raw: raw.replace(b'"n_cut":0', b'"n_cut":-1'),
        lambda raw: raw.replace(b'"about":"evaluate"', b'"about":"aggregate"'),
        lambda raw: raw.replace(b'"about":"evaluate"', b'"about":"nothing"'),
        lambda raw: raw.replace(b'"round":0', b'"round":0,"sum":0'),
        lambda raw: b"",
        lambda raw: b"\x80\x04.",
        lambda raw: b"{" * 5 * 2**20,
    ],
)
def test_what_is_not_exactly_a_report_is_refused(path, change):
    raw = encode_header(REPORT)
    assert change(raw) != raw
    path.write_bytes(change(raw))
    for opener in (read_report, open_any):
        with pytest.raises(ArtifactError, match=r"a\.json: "):
            opener(path)


def test_an_artifact_of_another_kind_is_no_report(path, header):
    path.write_bytes(encode_header(header))
    with pytest.raises(LineageError, match="is an update, not a report"):
        read_report(path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make",
    [lambda path: None, os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/zero")],
    ids=["missing", "pipe", "folder", "endless device"],
)
def test_what_is_no_regular_file_is_refused_without_waiting(path, make):
    make(path)
    with pytest.raises(InputError, match=r"a\.json: "):
        read_report(path)
