"""What was released stays readable, and means what it meant."""

import json
from pathlib import Path

import pytest

from fedlpp_cli.records.headers import FORMAT
from golden.make import GOLDEN, build, summarize

RELEASED = sorted(path for folder in GOLDEN.glob("v*") if folder.is_dir() for path in folder.iterdir())


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_released_artifact_opens_and_says_what_it_said(path):
    expected = json.loads((GOLDEN / f"{path.parent.name}.{path.name}.expected").read_text())
    assert summarize(path) == expected


def test_there_is_a_golden_artifact_of_every_kind():
    kinds = {summarize(path)["kind"] for path in RELEASED if path.parent.name == f"v{FORMAT}"}
    assert kinds == {"master", "proxy", "package", "update", "state", "base", "report", "transcript"}


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_content_is_written_in_the_same_bytes_as_ever(tmp_path):
    build(tmp_path / "now")
    assert files_in(tmp_path / "now") == files_in(GOLDEN / f"v{FORMAT}")
