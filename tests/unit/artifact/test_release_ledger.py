"""The release ledger: one image of one secret, whatever happens and whoever else writes."""

import contextlib
import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedlpp_cli import canonical
from fedlpp_cli.artifact.release_ledger import (
    AdapterRelease,
    BaseRelease,
    check_releases,
    default_ledger,
    record_releases,
)
from fedlpp_cli.errors import ArtifactError, InputError, OutputError, SecondReleaseError, UsageError
from fedlpp_cli.records.specs import QuantSpec

# Notes that it has started, waits for a line, then notes its release: a proxy of a master.
RECORDER = """
import sys
from pathlib import Path
from fedlpp_cli.artifact.release_ledger import AdapterRelease, record_releases
from fedlpp_cli.errors import SecondReleaseError
from fedlpp_cli.records.specs import QuantSpec

path, master, proxy = Path(sys.argv[1]), sys.argv[2] * 64, sys.argv[3] * 64
print("ready", flush=True)
sys.stdin.readline()
try:
    record_releases(path, [AdapterRelease(master=master, proxy=proxy, quantize=QuantSpec())])
except SecondReleaseError:
    print("refused", flush=True)
else:
    print("noted", flush=True)
"""
# No file may grow beyond a limit: as on a full disk, the first bytes of a line fit and the others do not.
ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from fedlpp_cli.artifact.release_ledger import AdapterRelease, record_releases
from fedlpp_cli.errors import OutputError
from fedlpp_cli.records.specs import QuantSpec

path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))
try:
    record_releases(path, [AdapterRelease(master="c" * 64, proxy="d" * 64, quantize=QuantSpec())])
except OutputError as error:
    print(error)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "releases.jsonl"


def adapter(master="a", proxy="b", rank=8, **fields):
    return AdapterRelease(master=master * 64, proxy=proxy * 64, quantize=QuantSpec(**fields), rank=rank)


def base(federation="e", of="f"):
    return BaseRelease(federation=federation * 64, base=of * 64)


def test_a_line_is_canonical_json_that_says_what_went_out_as_what(path):
    record_releases(path, [adapter(bits="4", rounding="stochastic", rounding_seed="spring"), base()])
    first, second = path.read_bytes().splitlines(keepends=True)
    quantize = {
        "bits": "4", "block": 64, "scale": "fp16", "rounding": "stochastic", "rounding_seed": "spring",
        "scale_rounding": "nearest", "groups": {}, "codebook": "nf",
    }  # fmt: skip
    wanted = {"about": "adapter", "master": "a" * 64, "proxy": "b" * 64, "quantize": quantize, "rank": 8, "mask": None,
              "client": None}  # fmt: skip
    assert first == canonical.encode(wanted) + b"\n"
    assert second == canonical.encode({"about": "base", "federation": "e" * 64, "base": "f" * 64}) + b"\n"


def test_the_same_again_adds_no_line(path):
    for releases in ([adapter()], [adapter()], [adapter(), base()], [base()], [adapter(), base()]):
        record_releases(path, releases)
    assert len(path.read_bytes().splitlines()) == 2


def test_other_masters_and_other_federations_have_lines_of_their_own(path):
    for release in (adapter("1", "b"), adapter("2", "b"), base("3", "f"), base("4", "f"), adapter("3", "5")):
        record_releases(path, [release])
    assert len(path.read_bytes().splitlines()) == 5


def test_each_rank_goes_out_once_and_all_of_them_with_one_rounding(path):
    """Proxies of several ranks are made from one rounding, so together they tell no more than that."""
    released = [adapter(rank=8), adapter(proxy="c", rank=4), adapter(proxy="d", rank=2), adapter(proxy="c", rank=4)]
    for release in released:
        record_releases(path, [release])
    before = path.read_bytes()
    assert len(before.splitlines()) == 3
    for other in (
        adapter(proxy="e", rank=4),  # of a rank that is out
        adapter(proxy="e", rank=1, bits="4"),  # another width
        adapter(proxy="e", rank=1, rounding="stochastic", rounding_seed="spring"),
        adapter(proxy="e", rank=None),
    ):
        with pytest.raises(SecondReleaseError, match="two roundings of the same weights tell more than one"):
            record_releases(path, [other])
    assert path.read_bytes() == before


def test_an_older_line_that_says_no_rank_is_alone(path):
    line = canonical.encode({"about": "adapter", "master": "a" * 64, "proxy": "b" * 64, "quantize": {}})
    path.write_bytes(line + b"\n")
    record_releases(path, [adapter(rank=8)])  # the same proxy
    assert path.read_bytes() == line + b"\n"
    with pytest.raises(SecondReleaseError, match="was released as proxy bbbbbbbbbbbb…"):
        record_releases(path, [adapter(proxy="c", rank=4)])


@pytest.mark.parametrize("call", [record_releases, check_releases])
@pytest.mark.parametrize(
    ("second", "message", "line"),
    [
        (
            adapter(proxy="9"),
            "master aaaaaaaaaaaa… was released as proxy bbbbbbbbbbbb…, this is proxy 999999999999…",
            2,
        ),
        (
            base(of="9"),
            "federation eeeeeeeeeeee… was released as base artifact ffffffffffff…, this is base artifact 99",
            3,
        ),
    ],
)
def test_another_image_of_the_same_is_refused_with_both_named_and_a_way_out(path, call, second, message, line):
    record_releases(path, [adapter("0", "0"), adapter(), base()])
    before = path.read_bytes()
    with pytest.raises(SecondReleaseError, match=message) as caught:
        call(path, [adapter("5", "5"), second])
    assert path.read_bytes() == before
    assert (caught.value.exit_code, caught.value.code) == (7, "secrecy-release")
    assert caught.value.hint.endswith(f"if it never left this machine, remove line {line} of {path}")


def test_a_removed_line_makes_room_for_another(path):
    record_releases(path, [adapter("0", "0"), adapter()])
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    record_releases(path, [adapter(proxy="9")])
    assert len(path.read_bytes().splitlines()) == 2


def test_what_editors_leave_is_read(path):
    """No newline at the end, empty lines."""
    record_releases(path, [adapter("0", "0"), adapter()])
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\n\n").rstrip(b"\n"))
    with pytest.raises(SecondReleaseError):
        record_releases(path, [adapter(proxy="9")])
    record_releases(path, [base()])
    assert [line[:18] for line in path.read_bytes().split(b"\n") if line] == [b'{"about":"adapter"'] * 2 + [
        b'{"about":"base","b'
    ]
    record_releases(path, [adapter(), base()])


def test_both_images_of_one_that_got_there_by_hand_may_go_out_again_and_no_third(path, tmp_path):
    record_releases(path, [adapter()])
    record_releases(tmp_path / "other", [adapter(proxy="9")])
    path.write_bytes(path.read_bytes() + (tmp_path / "other").read_bytes())
    record_releases(path, [adapter()])
    record_releases(path, [adapter(proxy="9")])
    with pytest.raises(SecondReleaseError):
        record_releases(path, [adapter(proxy="8")])


LINE = canonical.encode({"about": "base", "federation": "e" * 64, "base": "f" * 64})


@pytest.mark.parametrize("call", [record_releases, check_releases])
@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"what is this", "not valid JSON"),
        (b"\xff\x00", "not valid JSON"),
        (LINE[:-9], "not valid JSON"),
        (b"[1]", "a JSON object is needed"),
        (b"{}", "about is None, one of adapter, base is needed"),
        (LINE.replace(b'"base",', b'"basement",'), "about is 'basement'"),
        (LINE.replace(b"ffff", b"fff"), "base: "),
        (LINE.replace(b"}", b',"more":1}'), "unknown field 'more'"),
        (LINE.replace(b",", b", "), "not canonical"),
        (LINE + LINE, "not valid JSON"),
        (b" " * 2**17, "131072 bytes of JSON"),
    ],
)
def test_a_damaged_line_stops_every_release_and_is_named(path, call, damaged, message):
    record_releases(path, [adapter()])
    content = path.read_bytes() + damaged
    path.write_bytes(content)
    for release in (adapter(), adapter("5", "5"), adapter(proxy="9")):
        with pytest.raises(ArtifactError, match=rf"releases\.jsonl: line 2: .*{message}") as caught:
            call(path, [release])
        assert "\n" not in str(caught.value)
        assert "restore the release ledger" in caught.value.hint
    assert path.read_bytes() == content


def test_a_file_beyond_all_measure_is_not_read(path):
    with path.open("wb") as stream:
        stream.truncate(65 * 2**20)
    for call in (record_releases, check_releases):
        with pytest.raises(ArtifactError, match="more than 67108864 bytes"):
            call(path, [adapter()])


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for call in (record_releases, check_releases):
        with pytest.raises(InputError, match=r"pipe: not a regular file"):
            call(tmp_path / "pipe", [adapter()])
        with pytest.raises((InputError, OutputError), match=r"folder: "):
            call(tmp_path / "folder", [adapter()])
    with pytest.raises(OutputError, match=r"ledger: cannot be written \(Not a directory\)") as caught:
        record_releases(tmp_path / "file" / "ledger", [adapter()])
    assert "--ledger FILE" in caught.value.hint


def test_a_check_writes_nothing(tmp_path):
    check_releases(tmp_path / "new" / "ledger", [adapter()])
    assert list(tmp_path.iterdir()) == []


def test_the_default_is_a_file_a_federation_in_the_users_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("FEDLPP_STATE", str(tmp_path / "own"))
    assert default_ledger("e" * 64) == tmp_path / "own" / "releases" / f"{'e' * 64}.jsonl"
    monkeypatch.delenv("FEDLPP_STATE")
    assert default_ledger("e").parent == tmp_path / "xdg" / "fedlpp" / "releases"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_ledger("e").parent == tmp_path / "home" / ".local" / "state" / "fedlpp" / "releases"


def test_a_user_without_a_home_is_told_and_can_name_a_file(path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FEDLPP_STATE")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="this user has no home") as caught:
        default_ledger("e" * 64)
    assert "--ledger FILE" in caught.value.hint
    record_releases(path.parent / "new" / "ledger", [adapter()])


def test_only_its_owner_reads_the_state_folder_and_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLPP_STATE", str(tmp_path / "deep" / "state"))
    path = default_ledger("e" * 64)
    record_releases(path, [adapter()])
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_a_folder_that_the_owner_chose_is_an_ordinary_one(tmp_path):
    """A run's folder, which clients may have to read."""
    record_releases(tmp_path / "run" / "releases.jsonl", [adapter()])
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert stat.S_IMODE((tmp_path / "run" / "releases.jsonl").stat().st_mode) == 0o600


@contextlib.contextmanager
def recorders(path, pairs):
    """Processes that are ready to note a proxy of a master each."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RECORDER, str(path), *pair],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                )
            )
            for pair in pairs
        ]  # fmt: skip
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
        yield processes


def release_all(processes):
    for process in processes:
        process.stdin.write("go on\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes]


def test_of_many_processes_with_an_image_each_exactly_one_is_first(path):
    with recorders(path, [("a", proxy) for proxy in "12345"]) as processes:
        assert sorted(release_all(processes)) == ["noted"] + ["refused"] * 4
    assert len(path.read_bytes().splitlines()) == 1


def test_of_many_processes_with_a_master_each_all_are_noted(path):
    with recorders(path, [(master, "b") for master in "12345"]) as processes:
        assert release_all(processes) == ["noted"] * 5
    check_releases(path, [adapter(master, "b") for master in "12345"])
    assert len(path.read_bytes().splitlines()) == 5


def test_a_file_that_an_editor_put_there_while_the_lock_was_awaited_is_the_one_that_counts(path, tmp_path, monkeypatch):
    record_releases(tmp_path / "edited", [adapter()])
    record_releases(path, [base()])
    lock, seen = fcntl.flock, []

    def overtaken(descriptor, operation):
        if not seen:
            seen.append(descriptor)
            (tmp_path / "edited").replace(path)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with pytest.raises(SecondReleaseError):
        record_releases(path, [adapter(proxy="9")])
    assert seen


def test_without_locks_nothing_is_released(path, monkeypatch):
    def refuse(_descriptor, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="No locks available") as caught:
        record_releases(path, [adapter()])
    assert "--ledger FILE" in caught.value.hint


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half_of_it(path):
    record_releases(path, [adapter()])
    before = path.read_bytes()
    found = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert found == f"{path}: cannot be written (File too large)\n"
    assert path.read_bytes() == before
    assert list(Path(path.parent).iterdir()) == [path]


def test_a_line_with_as_many_groups_as_there_can_be_is_read_again(path):
    groups = {f"{'m' * 250}{number}": "ternary" for number in range(256)}
    record_releases(path, [adapter(groups=groups)])
    record_releases(path, [adapter(groups=groups)])
    assert len(path.read_bytes().splitlines()) == 1
