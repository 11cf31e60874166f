"""Outputs appear whole or not at all, whatever happens to whoever writes them."""

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedlpp_cli.artifact.whole import check_absent, output_errors, whole_file, whole_folder, write_all
from fedlpp_cli.errors import OutputError, OutputExistsError

OLD, NEW = b"old bytes", b"new bytes " * 100

# A process that writes what `write` writes, says at one point that it got there, and waits for a line or its end.
WRITER = """
import sys
from pathlib import Path
from fedlpp_cli.artifact import whole
from fedlpp_cli.errors import OutputExistsError

how, target, stop, force = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "force"
new = b"new bytes " * 100

def reach(point):
    if point == stop:
        print(point, flush=True)
        sys.stdin.readline()

def around(place, name, before, after):
    inner = getattr(place, name)
    def wrapped(*args, **kwargs):
        reach(before)
        found = inner(*args, **kwargs)
        reach(after)
        return found
    setattr(place, name, wrapped)

around(whole, "_give_name", "before the name", "after the name")
around(whole, "_swap_folder", "before the name", "after the name")
around(Path, "rename", "", "after a rename")
reach("start")
try:
    if how == "file":
        with whole.whole_file(target, force=force) as descriptor:
            reach("opened")
            whole.write_all(descriptor, new[:500], 0)
            reach("half")
            whole.write_all(descriptor, new[500:], 500)
    else:
        with whole.whole_folder(target, force=force) as draft:
            reach("opened")
            (draft / "a").write_bytes(new)
            reach("half")
            (draft / "sub").mkdir()
            (draft / "sub" / "b").write_bytes(new)
except OutputExistsError:
    print("lost", flush=True)
else:
    print("won", flush=True)
"""

both = pytest.mark.parametrize("how", ["file", "folder"])


@contextlib.contextmanager
def writer(how, target, stop, *, force=False):
    """A process that has got to a point. It is killed at the end."""
    arguments = [how, str(target), stop, "force" if force else "keep"]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout.readline() == f"{stop}\n"
        yield process
        process.kill()


def write(how, target, *, force=False):
    if how == "file":
        with whole_file(target, force=force) as descriptor:
            write_all(descriptor, NEW, 0)
    else:
        with whole_folder(target, force=force) as draft:
            (draft / "a").write_bytes(NEW)
            (draft / "sub").mkdir()
            (draft / "sub" / "b").write_bytes(NEW)


def write_and_fail(how, target, error, *, force):
    manager = whole_file if how == "file" else whole_folder
    with manager(target, force=force) as draft:
        if how == "file":
            write_all(draft, NEW, 0)
        else:
            (draft / "a").write_bytes(NEW)
        raise error


def write_old(how, target):
    if how == "file":
        target.write_bytes(OLD)
    else:
        target.mkdir()
        (target / "a").write_bytes(OLD)


def content(target):
    """What lies there: None, a file's bytes, or a folder's by name."""
    if target.is_dir():
        return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    return target.read_bytes() if target.exists() else None


def complete(how):
    return NEW if how == "file" else {"a": NEW, "sub/b": NEW}


def before(how):
    return OLD if how == "file" else {"a": OLD}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@both
def test_what_was_written_is_there_and_nothing_else(how, tmp_path):
    target = tmp_path / "deep" / "er" / "out"
    write(how, target)
    assert content(target) == complete(how)
    assert names(target.parent) == ["out"]


@both
@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "replacing"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_body_leaves_what_was_there(how, old, error, tmp_path):
    target = tmp_path / "out"
    if old:
        write_old(how, target)
    with pytest.raises(error):
        write_and_fail(how, target, error, force=old)
    assert content(target) == (before(how) if old else None)
    assert names(tmp_path) == (["out"] if old else [])


@both
@pytest.mark.parametrize("old", [False, True], ids=["nothing there", "replacing"])
@pytest.mark.parametrize("stop", ["opened", "half", "before the name", "after the name"])
def test_a_killed_writer_leaves_the_old_or_the_whole_new_output_and_the_next_one_cleans_up(how, old, stop, tmp_path):
    target = tmp_path / "out"
    if old:
        write_old(how, target)
    with writer(how, target, stop, force=old) as process:
        process.kill()
    if stop == "after the name":
        assert content(target) == complete(how)
    else:
        assert content(target) == (before(how) if old else None)
        assert len(names(tmp_path)) == 1 + old, "the test shall see a dead draft"
    write(how, target, force=True)
    assert content(target) == complete(how)
    assert names(tmp_path) == ["out"]


def test_a_kill_between_the_two_renames_that_replace_a_folder_leaves_none_and_never_half(tmp_path):
    target = tmp_path / "out"
    write_old("folder", target)
    with writer("folder", target, "after a rename", force=True) as process:
        process.kill()
    assert content(target) is None
    write("folder", target)
    assert content(target) == complete("folder")
    assert names(tmp_path) == ["out"]


@both
def test_a_dead_draft_of_another_target_is_nobody_elses_business(how, tmp_path):
    with writer(how, tmp_path / "other", "half") as process:
        process.kill()
    dead = names(tmp_path)
    assert len(dead) == 1
    write(how, tmp_path / "out")
    assert names(tmp_path) == [*dead, "out"]


@both
def test_the_draft_of_a_living_writer_is_left_alone_and_of_two_writers_one_wins(how, tmp_path):
    target = tmp_path / "out"
    with writer(how, target, "half") as process:
        alive = names(tmp_path)
        assert len(alive) == 1
        write(how, target)
        assert names(tmp_path) == [*alive, "out"]
        (target if how == "file" else target / "a").write_bytes(b"the first one's")
        found = process.communicate("go on\n")[0]
    assert found == "lost\n"
    assert names(tmp_path) == ["out"]
    assert (target if how == "file" else target / "a").read_bytes() == b"the first one's"


@both
def test_of_many_writers_at_once_exactly_one_wins(how, tmp_path):
    target = tmp_path / "out"
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(writer(how, target, "start")) for _ in range(5)]
        for process in processes:
            process.stdin.write("go on\n")
            process.stdin.flush()
        found = [process.stdout.readline() for process in processes]
    assert sorted(found) == ["lost\n"] * 4 + ["won\n"]
    assert content(target) == complete(how)
    assert names(tmp_path) == ["out"]


def test_of_many_files_that_replace_each_other_all_win(tmp_path):
    target = tmp_path / "out"
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(writer("file", target, "start", force=True)) for _ in range(5)]
        for process in processes:
            process.stdin.write("go on\n")
            process.stdin.flush()
        found = [process.stdout.readline() for process in processes]
    assert found == ["won\n"] * 5
    assert content(target) == NEW
    assert names(tmp_path) == ["out"]


def sweep_before_the_first_lock(target, monkeypatch):
    """Another writer's sweep comes between the making of a draft and its lock."""
    lock, seen = fcntl.flock, []

    def swept(descriptor, operation):
        if not seen:
            seen.append(descriptor)
            for draft in target.parent.glob(".*.draft"):
                draft.rmdir() if draft.is_dir() else draft.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", swept)
    return seen


@both
def test_a_draft_that_was_swept_before_it_was_locked_is_made_again(how, tmp_path, monkeypatch):
    target = tmp_path / "out"
    seen = sweep_before_the_first_lock(target, monkeypatch)
    write(how, target)
    assert seen
    assert content(target) == complete(how)
    assert names(tmp_path) == ["out"]


def test_a_folder_that_was_swept_before_it_was_opened_is_made_again(tmp_path, monkeypatch):
    open_, seen = os.open, []

    def swept(path, flags, *mode, **options):
        if not seen and Path(path).name.endswith(".draft"):
            seen.append(path)
            Path(path).rmdir()
        return open_(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", swept)
    write("folder", tmp_path / "out")
    assert seen
    assert content(tmp_path / "out") == complete("folder")
    assert names(tmp_path) == ["out"]


@both
def test_where_files_cannot_be_locked_outputs_are_written_all_the_same(how, tmp_path, monkeypatch):
    def refuse(_descriptor, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(how, tmp_path / "out")
    assert content(tmp_path / "out") == complete(how)
    assert names(tmp_path) == ["out"]


@both
def test_an_output_that_exists_is_refused_before_the_body_runs(how, tmp_path):
    target = tmp_path / "out"
    manager = whole_file if how == "file" else whole_folder
    for make in (target.touch, target.mkdir, lambda: target.symlink_to("nowhere")):
        make()
        with pytest.raises(OutputExistsError, match="out exists") as caught, manager(target):
            pytest.fail("the body ran")
        assert "--force" in caught.value.hint
        assert names(tmp_path) == ["out"]
        target.rmdir() if target.is_dir() else target.unlink()


@both
def test_force_replaces_what_is_there(how, tmp_path):
    target = tmp_path / "out"
    write_old(how, target)
    write(how, target, force=True)
    assert content(target) == complete(how)
    assert names(tmp_path) == ["out"]


@both
def test_force_replaces_a_link_and_not_what_it_points_to(how, tmp_path):
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "out"
    write_old(how, elsewhere)
    target.symlink_to("elsewhere")
    write(how, target, force=True)
    assert not target.is_symlink()
    assert content(target) == complete(how)
    assert content(elsewhere) == before(how)
    assert names(tmp_path) == ["elsewhere", "out"]


def test_a_folder_replaces_a_file_but_a_file_never_a_folder(tmp_path):
    write_old("file", tmp_path / "a")
    write("folder", tmp_path / "a", force=True)
    assert content(tmp_path / "a") == complete("folder")
    with pytest.raises(OutputError, match="cannot be written"):
        write("file", tmp_path / "a", force=True)
    assert content(tmp_path / "a") == complete("folder")
    assert names(tmp_path) == ["a"]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    target, rename = tmp_path / "out", Path.rename
    write_old("folder", target)

    def fail_for_the_new_one(self, to):
        if to == target and not self.name.endswith(".old.draft"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OutputError, match="Input/output error"):
        write("folder", target, force=True)
    assert content(target) == before("folder")
    assert names(tmp_path) == ["out"]


def test_without_hard_links_a_file_still_does_not_replace_another(tmp_path, monkeypatch):
    def refuse(_self, _target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write("file", tmp_path / "out")
    assert content(tmp_path / "out") == NEW
    target = tmp_path / "taken"
    with pytest.raises(OutputExistsError), whole_file(target):
        target.write_bytes(OLD)
    assert content(target) == OLD
    assert names(tmp_path) == ["out", "taken"]


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_modes_are_the_usual_ones_unless_the_output_is_private(mask, file_mode, folder_mode, tmp_path, umask):
    umask(mask)
    write("file", tmp_path / "public")
    write("folder", tmp_path / "folder")
    with whole_file(tmp_path / "private", private=True) as descriptor:
        write_all(descriptor, NEW, 0)
    assert mode(tmp_path / "public") == mode(tmp_path / "folder" / "sub" / "b") == file_mode
    assert mode(tmp_path / "folder") == mode(tmp_path / "folder" / "sub") == folder_mode
    assert mode(tmp_path / "private") == 0o600
    assert umask(mask) == mask, "the umask is as it was"


def test_a_private_output_stays_private_where_a_public_one_was(tmp_path, umask):
    umask(0o022)
    write_old("file", tmp_path / "out")
    with whole_file(tmp_path / "out", private=True, force=True) as descriptor:
        write_all(descriptor, NEW, 0)
    assert mode(tmp_path / "out") == 0o600


def test_nobody_else_can_read_a_draft(tmp_path, umask):
    umask(0)
    with whole_file(tmp_path / "out") as descriptor, whole_folder(tmp_path / "folder") as draft:
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
        assert mode(draft) == 0o700


@pytest.fixture
def synced(monkeypatch):
    """Every fsync: its path, and whether each of the watched paths was there at that moment."""
    log, watched, fsync = [], [], os.fsync

    def record(descriptor):
        fsync(descriptor)
        log.append((Path(f"/proc/self/fd/{descriptor}").readlink(), any(path.exists() for path in watched)))

    monkeypatch.setattr(os, "fsync", record)
    return log, watched


@both
@pytest.mark.parametrize("force", [False, True])
def test_bytes_are_on_disk_before_the_name_is_and_the_name_before_success_is_told(how, force, tmp_path, synced):
    log, watched = synced
    target = tmp_path / "out"
    watched.append(target)
    write(how, target, force=force)
    early = [path for path, there in log if not there]
    late = [path for path, there in log if there]
    assert late == [tmp_path]
    if how == "file":
        assert len(early) == 1
    else:
        root = min(early, key=lambda path: len(path.parts))
        assert {path.relative_to(root).as_posix() for path in early} == {".", "a", "sub", "sub/b"}
        assert early.index(root / "sub" / "b") < early.index(root / "sub") < early.index(root)


@both
def test_folders_that_are_made_on_the_way_are_on_disk_too(how, tmp_path, synced):
    log, _ = synced
    write(how, tmp_path / "deep" / "er" / "out")
    assert {tmp_path, tmp_path / "deep", tmp_path / "deep" / "er"} <= {path for path, _ in log}


FAILURES = {
    "os.open": (os, "open"),
    "os.pwrite": (os, "pwrite"),
    "os.fsync": (os, "fsync"),
    "os.fchmod": (os, "fchmod"),
    "hard link": (Path, "hardlink_to"),
    "rename over": (Path, "replace"),
}


@pytest.mark.parametrize("call", FAILURES)
@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get
)
def test_a_call_that_fails_is_one_sentence_about_the_output_and_leaves_nothing(call, code, tmp_path, monkeypatch):
    place, name = FAILURES[call]
    force = call == "rename over"
    if force:
        write_old("file", tmp_path / "out")

    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(place, name, fail)
    refusal = pytest.raises(OutputError, match=f"out: cannot be written .{os.strerror(code)}.$")
    with refusal, whole_file(tmp_path / "out", force=force) as descriptor, output_errors(tmp_path / "out"):
        write_all(descriptor, NEW, 0)
    monkeypatch.undo()
    assert content(tmp_path / "out") == (OLD if force else None)
    assert names(tmp_path) == (["out"] if force else [])


def test_a_target_below_a_file_cannot_be_written(tmp_path):
    write_old("file", tmp_path / "file")
    for how in ("file", "folder"):
        with pytest.raises(OutputError, match="cannot be written"):
            write(how, tmp_path / "file" / "out")
    assert names(tmp_path) == ["file"]


def test_a_system_that_writes_a_little_at_a_time_gets_it_all(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:7], offset))
    write("file", tmp_path / "out")
    assert content(tmp_path / "out") == NEW


def test_empty_outputs_are_outputs(tmp_path):
    with whole_file(tmp_path / "file") as descriptor, whole_folder(tmp_path / "folder"):
        write_all(descriptor, b"", 0)
    assert content(tmp_path / "file") == b""
    assert content(tmp_path / "folder") == {}


@pytest.mark.parametrize("name", ["a", "a[1]", "a*", "a?", "[!a]", "a]", "**", "a.b", "-a", " ", "ü", "a\nb"])
@both
def test_any_name_is_swept_for_itself_alone(how, name, tmp_path):
    own = tmp_path / f".{name}.0123abcd.draft"
    others = [
        tmp_path / f".{other}.0123abcd.draft" for other in ("a", "a.b", "a1", "ab", "b", "c", "x") if other != name
    ]
    for draft in (own, *others):
        write_old(how, draft)
    write(how, tmp_path / name)
    assert content(tmp_path / name) == complete(how)
    assert names(tmp_path) == sorted([name, *(draft.name for draft in others)])


def test_what_only_looks_like_a_draft_is_not_followed(tmp_path):
    """A link under a draft's name: neither it nor what it points to is touched."""
    (tmp_path / "precious").write_bytes(OLD)
    (tmp_path / ".out.0123abcd.draft").symlink_to("precious")
    os.mkfifo(tmp_path / ".out.4567abcd.draft")
    write("file", tmp_path / "out")
    assert content(tmp_path / "precious") == OLD
    assert content(tmp_path / "out") == NEW


def test_whether_an_output_is_there_can_be_asked_early(tmp_path):
    check_absent(tmp_path / "out", force=False)
    write_old("file", tmp_path / "out")
    check_absent(tmp_path / "out", force=True)
    with pytest.raises(OutputExistsError):
        check_absent(tmp_path / "out", force=False)
