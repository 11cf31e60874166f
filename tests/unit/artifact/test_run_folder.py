"""A run's folder says by its files alone how far it has come."""

import os

import pytest

from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.artifact.run_folder import is_run, report_beside, round_name, scan_run
from fedlpp_cli.errors import InputError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_every_file_is_found_in_its_place(tmp_path):
    first, second = tmp_path / "round-0000", tmp_path / "round-0001"
    files = [touch(first / name) for name in ("master.safetensors", "proxy.safetensors", "updates/b.safetensors")]
    files.append(touch(first / "updates" / "a.safetensors"))
    state = touch(first / "states" / "a.safetensors")
    reference = touch(first / "reference.safetensors")
    touch(first / "package" / MANIFEST)
    report = touch(second / "master.report.json")
    rounds = scan_run(tmp_path)
    assert [(one.number, one.path) for one in rounds] == [(0, first), (1, second)]
    assert (rounds[0].master, rounds[0].proxy, rounds[0].report) == (files[0], files[1], None)
    assert rounds[0].package == first / "package"
    assert list(rounds[0].updates.items()) == [("a", files[3]), ("b", files[2])]
    assert (rounds[0].reference, rounds[1].reference) == (reference, None)
    assert (rounds[0].states, rounds[1].states) == ({"a": state}, {})
    assert (rounds[1].master, rounds[1].proxy, rounds[1].package, rounds[1].updates) == (None, None, None, {})
    assert rounds[1].report == report == report_beside(second / "master.safetensors")


def test_rounds_are_in_the_order_of_their_numbers(tmp_path):
    numbers = [10_000, 2, 9999, 0, 123]
    for number in numbers:
        (tmp_path / round_name(number)).mkdir()
    assert [one.number for one in scan_run(tmp_path)] == sorted(numbers)


@pytest.mark.parametrize(
    "name",
    ["round-1", "round-001", "round-00001", "round-0001 ", "round-0001.draft", ".round-0001.0123abcd.draft",
     "Round-0001", "round-000a", "round--001", "round-", "round-000\u0661", "xround-0001", "base", "round-0001\n"],
)  # fmt: skip
def test_another_name_is_no_round(tmp_path, name):
    (tmp_path / name).mkdir()
    assert not is_run(tmp_path)
    (tmp_path / "round-0001").mkdir()
    assert [one.path.name for one in scan_run(tmp_path)] == ["round-0001"]


def test_a_file_is_no_round(tmp_path):
    touch(tmp_path / "round-0000")
    assert not is_run(tmp_path)
    with pytest.raises(InputError):
        scan_run(tmp_path)


def test_drafts_and_other_things_are_no_updates(tmp_path):
    updates = tmp_path / "round-0000" / "updates"
    for name in (".a.safetensors.0123abcd.draft", ".a.safetensors", "notes.txt", "a.safetensors.bak", "safetensors"):
        touch(updates / name)
    (updates / "folder.safetensors").mkdir()
    os.mkfifo(updates / "pipe.safetensors")
    (updates / "dangling.safetensors").symlink_to("nowhere")
    touch(updates / "deeper" / "b.safetensors")
    real = touch(updates / "a.b.safetensors")
    assert scan_run(tmp_path)[0].updates == {"a.b": real}


def test_a_folder_or_pipe_under_a_files_name_is_not_that_file(tmp_path):
    folder = tmp_path / "round-0000"
    (folder / "master.safetensors").mkdir(parents=True)
    (folder / "package" / MANIFEST).mkdir(parents=True)
    os.mkfifo(folder / "proxy.safetensors")
    found = scan_run(tmp_path)[0]
    assert (found.master, found.proxy, found.package) == (None, None, None)


def test_a_package_without_its_manifest_is_not_there_yet(tmp_path):
    touch(tmp_path / "round-0000" / "package" / "proxy.safetensors")
    assert scan_run(tmp_path)[0].package is None


def test_a_folder_without_rounds_is_no_run(tmp_path):
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "none")
    with pytest.raises(InputError, match="no round-0000 in it"):
        scan_run(tmp_path)
    for path in (tmp_path / "none", touch(tmp_path / "file")):
        assert not is_run(path)
        with pytest.raises(InputError, match="no such run folder"):
            scan_run(path)


def test_the_name_of_a_round_sorts_as_its_number():
    assert [round_name(number) for number in (0, 7, 9999, 10_000)] == [
        "round-0000", "round-0007", "round-9999", "round-10000",
    ]  # fmt: skip
