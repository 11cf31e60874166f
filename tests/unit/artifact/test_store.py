"""Fetching and publishing, by the real client, against the test Hub."""

import fcntl
import logging.handlers
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from support.hub_client import use_endpoint, use_hub, use_token
from support.hub_server import HubServer

from fedlpp_cli.artifact import store
from fedlpp_cli.errors import HubError, InputError, OutputError, OutputExistsError, SecrecyError, UsageError
from fedlpp_cli.refs import parse_ref

REPO = "acme/run"
WEIGHTS = bytes(range(256)) * 40
PACKAGE = {
    "round-0000/package/manifest.json": b"{}",
    "round-0000/package/proxy.safetensors": WEIGHTS,
    "round-0000/package/base/model.safetensors": WEIGHTS[::-1],
    "round-0000/updates/a.safetensors": b"update",
    "notes[1].txt": b"notes",
}
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"x", "logo.png": b"y"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer(tokens={"hf_owner": "acme", "hf_guest": "guest"}) as server:
        use_hub(monkeypatch, server, tmp_path / "home", token="hf_owner")
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_owner")


@pytest.fixture
def first(api):
    """The commit of a repository with something in it."""
    api.create_repo(REPO, private=True)
    return put(api, PACKAGE)


@pytest.fixture
def at_once(monkeypatch):
    """The client tries again without waiting."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


@pytest.fixture
def scratch(monkeypatch, tmp_path):
    """Where temporary folders go, to see that they also go away."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def put(api, files, *, repo_id=REPO, title="Put", **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message=title, **options).oid


def ref(text=REPO):
    return parse_ref(f"hf://{text}")


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }


def below(prefix):
    return {name.removeprefix(prefix): content for name, content in PACKAGE.items() if name.startswith(prefix)}


def go_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def write(place, files=None):
    """A file, or a folder of files."""
    if isinstance(files, bytes):
        place.path.write_bytes(files)
        return
    for name, content in (files or {"manifest.json": b"{}", "proxy.safetensors": WEIGHTS}).items():
        (place.path / name).parent.mkdir(parents=True, exist_ok=True)
        (place.path / name).write_bytes(content)


class TestPin:
    def test_a_branch_a_tag_and_nothing_become_the_commit_that_they_mean(self, api, first):
        api.create_tag(REPO, tag="v1")
        api.create_branch(REPO, branch="side")
        last = put(api, {"more.txt": b"more"})
        assert str(store.pin(ref(f"{REPO}/notes"))) == f"hf://{REPO}@{last}/notes"
        assert {store.pin(ref(f"{REPO}@{name}")).revision for name in ("v1", "side")} == {first}
        assert store.pin(ref(f"{REPO}@refs%2Fheads%2Fside")).revision == first

    def test_a_commit_is_asked_about_nobody(self, hub):
        pinned = ref(f"{REPO}@{'0' * 40}/x")
        assert store.pin(pinned) is pinned
        assert hub.requests == []


class TestFetch:
    def test_a_path_is_returned_as_it_is(self, hub, tmp_path):
        assert store.fetch(tmp_path / "nothing") == tmp_path / "nothing"
        assert store.fetch_model(tmp_path / "nothing") == (tmp_path / "nothing", None)
        assert hub.requests == []

    def test_a_file_a_folder_and_a_repository_come_whole_and_without_what_is_beside_them(self, hub, first):
        assert store.fetch(ref(f"{REPO}/notes[1].txt")).read_bytes() == b"notes"
        assert not any(request.startswith("GET /storage/") for request in hub.requests)
        package = store.fetch(ref(f"{REPO}/round-0000/package"))
        assert files_in(package) == below("round-0000/package/")
        assert not (package.parent / "updates").exists()
        assert files_in(store.fetch(ref())) == PACKAGE

    def test_what_is_not_needed_is_left_out(self, first):
        assert "base/model.safetensors" not in files_in(
            store.fetch(ref(f"{REPO}/round-0000/package"), skip=["*/base/*"])
        )

    def test_a_data_set_repository_is_another_one(self, api, first):
        api.create_repo(REPO, repo_type="dataset", private=True)
        put(api, {"train.jsonl": b"{}\n"}, repo_type="dataset")
        assert files_in(store.fetch(ref(f"datasets/{REPO}"))) == {"train.jsonl": b"{}\n"}
        assert files_in(store.fetch(ref())) == PACKAGE

    def test_a_branch_that_moves_meanwhile_changes_nothing(self, monkeypatch, api, first):
        download = huggingface_hub.snapshot_download

        def download_late(*args, **options):
            put(api, {"notes[1].txt": b"newer", "config.json": b"newer"})
            return download(*args, **options)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download_late)
        put(api, {"config.json": b"older"})
        assert store.fetch(ref(f"{REPO}@main/notes[1].txt")).read_bytes() == b"notes"
        put(api, {"config.json": b"older"})
        assert (store.fetch_model(ref())[0] / "config.json").read_bytes() == b"older"

    def test_a_commit_is_fetched_once_and_for_all(self, hub, first):
        pinned = ref(f"{REPO}@{first}/round-0000/package")
        store.fetch(pinned)
        hub.requests.clear()
        assert files_in(store.fetch(pinned)) == below("round-0000/package/")
        assert hub.requests == []

    def test_two_at_once_do_not_fetch_into_one_folder(self, monkeypatch, hub, first):
        download, is_locked = huggingface_hub.snapshot_download, []

        def download_locked(*args, **options):
            with Path(f"{options['local_dir'].parent}/.{first}.lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    is_locked.append(True)
            return download(*args, **options)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download_locked)
        with ThreadPoolExecutor(4) as pool:
            folders = list(pool.map(store.fetch, [ref(f"{REPO}/round-0000/package")] * 4))
        assert is_locked == [True] * 4
        assert [files_in(folder) for folder in folders] == [below("round-0000/package/")] * 4
        assert sum(request.startswith("GET /storage/") for request in hub.requests) == 2
        assert logging.getLogger("huggingface_hub").level == logging.WARNING

    def test_the_cache_is_nobody_elses_to_read(self, first):
        store.fetch(ref(f"{REPO}/notes[1].txt"))
        assert store.cache_folder().stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("fetch", [store.fetch, store.fetch_model])
    def test_what_is_not_there_is_named(self, first, fetch):
        for text, kind, said in (
            ("acme/nothing", HubError, "hf://acme/nothing: no such repository, or no access to it"),
            (f"acme/nothing@{first}", HubError, "no such repository, or no access"),
            (f"{REPO}@nowhere/x", HubError, "no revision 'nowhere'"),
            (f"{REPO}@{'0' * 40}/x", HubError, f"no revision '{'0' * 40}'"),
            (f"{REPO}/round-0000/pack", InputError, f"hf://{REPO}@{first}/round-0000/pack: the repository has no"),
            (f"{REPO}/round-00*", InputError, "the repository has no"),
        ):
            with pytest.raises(kind) as refused:
                fetch(ref(text))
            assert said in str(refused.value)

    @pytest.mark.parametrize("token", [None, "hf_guest", "hf_wrong"])
    def test_a_private_repository_asks_for_a_token(self, monkeypatch, first, token):
        use_token(monkeypatch, token)
        for text in (REPO, f"{REPO}@{first}/round-0000"):
            with pytest.raises(HubError) as refused:
                store.fetch(ref(text))
            assert refused.value.hint == "hf auth login, or HF_TOKEN"

    def test_a_cache_folder_that_cannot_be_is_no_fault_of_the_hub(self, monkeypatch, tmp_path, first):
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("FEDLPP_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(OutputError, match=r"file/cache: cannot be written \(Not a directory\)"):
            store.fetch(ref(f"{REPO}/notes[1].txt"))


class TestFetchModel:
    def test_a_model_comes_with_the_commit_it_was_taken_from(self, api):
        api.create_repo("acme/model")
        sha = put(api, MODEL | {f"small/{name}": content for name, content in MODEL.items()}, repo_id="acme/model")
        for text, pinned in (
            ("acme/model", f"hf://acme/model@{sha}"),
            ("acme/model@main/small", f"hf://acme/model@{sha}/small"),
        ):
            folder, found = store.fetch_model(ref(text))
            assert str(found) == pinned
            assert files_in(folder) == {name: MODEL[name] for name in ("config.json", "model.safetensors")}

    def test_offline_a_pinned_model_is_found_and_a_branch_is_not(self, monkeypatch, hub, api, first):
        put(api, MODEL)
        folder, found = store.fetch_model(ref())
        go_offline(monkeypatch)
        hub.requests.clear()
        assert store.fetch_model(found) == (folder, found)
        with pytest.raises(HubError, match="offline mode is on") as refused:
            store.fetch_model(ref(REPO))
        assert f"hf://{REPO}@COMMIT" in refused.value.hint
        assert hub.requests == []


class TestTrouble:
    def test_a_busy_hub_is_named_with_its_answer(self, hub, first):
        hub.fail_next(1, 503, path_contains=f"/api/models/{REPO}")
        with pytest.raises(HubError, match=rf"^hf://{REPO}: the Hub answers 503 \(Injected fault\)$"):
            store.fetch(ref())

    @pytest.mark.parametrize(("status", "said"), [(0, "cannot be reached"), (200, "cannot be reached"), (503, "503")])
    def test_what_was_interrupted_is_not_taken_for_whole(self, monkeypatch, hub, first, at_once, status, said):
        package = ref(f"{REPO}@{first}/round-0000/package")
        hub.fail_next(99, status, path_contains="/storage/")
        with pytest.raises(HubError, match=said):
            store.fetch(package)
        with monkeypatch.context() as later:
            go_offline(later)
            with pytest.raises(HubError, match="offline mode is on"):
                store.fetch(package)
        hub._faults.clear()
        assert files_in(store.fetch(package)) == below("round-0000/package/")

    def test_without_a_hub_only_a_commit_that_was_fetched_is_there(self, monkeypatch, first, at_once):
        fetched = store.fetch(ref(f"{REPO}/round-0000/package"))
        use_endpoint(monkeypatch, "http://127.0.0.1:9")
        assert store.fetch(ref(f"{REPO}@{first}/round-0000/package")) == fetched
        for text in (f"{REPO}/round-0000/package", f"{REPO}@{'1' * 40}/round-0000/package"):
            with pytest.raises(HubError, match=r"the Hub cannot be reached \(\[Errno 111\] Connection refused\)"):
                store.fetch(ref(text))

    def test_offline_only_a_commit_that_was_fetched_is_there(self, monkeypatch, hub, first):
        fetched = store.fetch(ref(f"{REPO}/round-0000/package"))
        go_offline(monkeypatch)
        hub.requests.clear()
        assert store.fetch(ref(f"{REPO}@{first}/round-0000/package")) == fetched
        for text in (REPO, f"{REPO}@{'1' * 40}", f"{REPO}@{first}/round-0000/updates"):
            with pytest.raises(HubError, match=r"offline mode is on \(HF_HUB_OFFLINE\)"):
                store.fetch(ref(text))
        with pytest.raises(InputError, match="no such file or folder"):
            store.fetch(ref(f"{REPO}@{first}/nowhere"))
        with pytest.raises(HubError), store.destination(ref(f"{REPO}/new"), message="New", force=True):
            pytest.fail("the body ran")
        assert hub.requests == []

    def test_an_endpoint_that_is_no_address_is_a_clear_error(self, monkeypatch, hub):
        for url in ("huggingface.co", "ftp://huggingface.co"):
            use_endpoint(monkeypatch, url)
            with pytest.raises(HubError, match="cannot be reached"):
                store.fetch(ref())


class TestDestination:
    def test_a_path_is_written_in_place(self, hub, tmp_path):
        with store.destination(tmp_path / "out", message="") as place:
            assert (place.path, place.written) == (tmp_path / "out", tmp_path / "out")
        place.path.write_bytes(b"")
        with pytest.raises(OutputExistsError), store.destination(tmp_path / "out", message=""):
            pytest.fail("the body ran")
        assert hub.requests == []

    @pytest.mark.parametrize("content", [WEIGHTS, {"manifest.json": b"{}", "base/model.safetensors": WEIGHTS}])
    def test_a_file_or_folder_is_one_commit_in_a_new_private_repository(self, hub, scratch, content):
        with store.destination(ref("acme/new/round-0000/out"), message="Round 0") as place:
            assert place.path.parent.stat().st_mode & 0o777 == 0o700
            write(place, content)
            assert ("model", "acme/new") not in hub.content.repos
        assert hub.repo("acme/new").private
        [(sha, title), (_, begin)] = hub.commits("acme/new")
        assert (str(place.written), title) == (f"hf://acme/new@{sha}/round-0000/out", "Round 0")
        fetched = store.fetch(place.written)
        assert (fetched.read_bytes() if fetched.is_file() else files_in(fetched)) == content
        assert begin == "initial commit"
        assert list(scratch.iterdir()) == []

    def test_a_repository_that_is_there_stays_as_it_is(self, hub, api):
        api.create_repo("acme/open", repo_type="dataset")
        with store.destination(ref("datasets/acme/open/rows"), message="Rows") as place:
            write(place)
        assert not hub.repo("acme/open", "dataset").private
        assert len(hub.commits("acme/open")) == 2

    def test_a_branch_is_written_to_and_main_is_not(self, hub, api, first):
        api.create_branch(REPO, branch="side")
        with store.destination(ref(f"{REPO}@side/out"), message="Side") as place:
            write(place, b"x")
        assert hub.commits(REPO)[0][0] == first
        assert hub.commits(REPO, "side")[0] == (place.written.revision, "Side")

    def test_a_pull_request_takes_what_others_send(self, monkeypatch, hub, api, first):
        hub.repo(REPO).private = False
        guest = HfApi(endpoint=hub.url, token="hf_guest")
        guest.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="Open", create_pr=True)
        use_token(monkeypatch, "hf_guest")
        with store.destination(ref(f"{REPO}@refs/pr/1/out"), message="Sent") as place:
            write(place, b"x")
        assert hub.commits(REPO)[0][0] == first
        assert hub.file(REPO, "refs/pr/1", "out") == b"x"

    @pytest.mark.parametrize("path", ["round-0000/package", "round-0000", "round-0000/updates/a.safetensors"])
    def test_what_exists_is_refused_before_any_work(self, hub, first, path):
        with (
            pytest.raises(OutputExistsError, match=f"hf://{REPO}/{path} exists"),
            store.destination(ref(f"{REPO}/{path}"), message="Out"),
        ):
            pytest.fail("the body ran")
        assert hub.commits(REPO)[0][0] == first

    def test_a_name_that_begins_alike_is_free(self, first):
        with store.destination(ref(f"{REPO}/round-0000/pack"), message="Like package") as place:
            write(place, b"x")

    def test_force_replaces_all_that_was_there_in_one_commit(self, hub, first):
        with store.destination(ref(f"{REPO}/round-0000/package"), message="Again", force=True) as place:
            write(place, {"manifest.json": b"[]", "README.md": b"No metadata here"})
        assert [title for _, title in hub.commits(REPO)[:2]] == ["Again", "Put"]
        assert files_in(store.fetch(ref(f"{REPO}/round-0000/package"))) == {
            "manifest.json": b"[]",
            "README.md": b"No metadata here",
        }
        assert hub.file(REPO, "main", "round-0000/updates/a.safetensors") == b"update"

    def test_force_puts_no_file_in_the_place_of_a_folder(self, hub, first):
        with (
            pytest.raises(OutputExistsError, match="is a folder"),
            store.destination(ref(f"{REPO}/round-0000"), message="Out", force=True) as place,
        ):
            write(place, b"x")
        assert hub.commits(REPO)[0][0] == first

    def test_the_same_again_makes_no_commit(self, hub, first):
        with store.destination(ref(f"{REPO}/round-0000/updates/a.safetensors"), message="Out", force=True) as place:
            write(place, b"update")
        assert place.written.revision == first
        assert hub.commits(REPO)[0][0] == first

    def test_an_output_that_appears_meanwhile_is_not_written_over(self, hub, api, first):
        def overtaken():
            with store.destination(ref(f"{REPO}/out"), message="Ours") as place:
                write(place, b"ours")
                put(api, {"out": b"theirs"}, title="Theirs")

        with pytest.raises(OutputExistsError) as refused:
            overtaken()
        assert [title for _, title in hub.commits(REPO)] == ["Theirs", "Put", "initial commit"]
        assert Path(refused.value.hint.rpartition(": ")[2]).read_bytes() == b"ours"

    def test_other_peoples_commits_do_not_get_in_the_way(self, monkeypatch, hub, api, first):
        commit = HfApi.create_commit

        def commit_late(self, *args, **options):
            if len(hub.commits(REPO)) < 5:
                operations = [CommitOperationAdd(f"other{len(hub.commits(REPO))}", b"x")]
                commit(self, REPO, operations, commit_message="Other")
            return commit(self, *args, **options)

        monkeypatch.setattr(HfApi, "create_commit", commit_late)
        with store.destination(ref(f"{REPO}/out"), message="Ours") as place:
            write(place)
        assert [title for _, title in hub.commits(REPO)[:5]] == ["Ours", "Other", "Other", "Other", "Put"]

    @pytest.mark.parametrize("text", [REPO, f"datasets/{REPO}@main", f"{REPO}@{'0' * 40}/out"])
    def test_a_repository_or_a_commit_is_no_place_to_write(self, hub, text):
        with pytest.raises(UsageError, match="name a path"), store.destination(ref(text), message="Out"):
            pytest.fail("the body ran")
        assert hub.requests == []

    def test_a_secret_is_refused_before_anything_is_asked(self, hub):
        with (
            pytest.raises(SecrecyError, match="not written to the Hub"),
            store.destination(ref(f"{REPO}/master.safetensors"), message="Out", secret=True, force=True),
        ):
            pytest.fail("the body ran")
        assert hub.requests == []

    @pytest.mark.parametrize(
        ("token", "text", "said"),
        [
            (None, "acme/new/out", "a token is needed"),
            ("hf_wrong", "acme/new/out", "the Hub answers 401"),
            (None, "acme/open/out", "the Hub answers 401"),
            ("hf_guest", "acme/open/out", "the Hub answers 403"),
            ("hf_owner", f"{REPO}@nowhere/out", "no revision 'nowhere'"),
            ("hf_owner", "acme/new@side/out", "a new one has no revision 'side'"),
        ],
    )
    def test_what_cannot_be_written_is_refused_before_any_work(self, monkeypatch, hub, api, first, token, text, said):
        api.create_repo("acme/open")
        use_token(monkeypatch, token)
        with pytest.raises(HubError, match=said), store.destination(ref(text), message="Out", force=True):
            pytest.fail("the body ran")
        assert ("model", "acme/new") not in hub.content.repos

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_in_the_body_publishes_nothing_and_leaves_nothing(self, hub, scratch, error):
        def fail():
            with store.destination(ref("acme/new/out"), message="Out") as place:
                write(place)
                raise error

        with pytest.raises(error):
            fail()
        assert hub.content.repos == {}
        assert list(scratch.iterdir()) == []
        assert not store.cache_folder().exists()

    def test_a_body_that_writes_nothing_publishes_nothing(self, hub):
        with store.destination(ref("acme/new/out"), message="Out"):
            pass
        assert hub.content.repos == {}

    @pytest.mark.parametrize("path", ["/preupload/", "/objects/batch", "/commit/"])
    def test_what_cannot_be_sent_is_kept(self, hub, first, scratch, at_once, path):
        hub.fail_next(99, 500, path_contains=path)
        with (
            pytest.raises(HubError, match="the Hub answers 500") as refused,
            store.destination(ref(f"{REPO}/out"), message="Out") as place,
        ):
            write(place)
        kept = Path(refused.value.hint.removeprefix("what was made is kept: "))
        assert files_in(kept) == {"manifest.json": b"{}", "proxy.safetensors": WEIGHTS}
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        assert hub.commits(REPO)[0][0] == first
        assert list(scratch.iterdir()) == []


class TestConfidential:
    def test_only_a_public_repository_is_refused(self, hub, api, first, tmp_path):
        api.create_repo("acme/open")
        why = "it tells"
        with (
            pytest.raises(SecrecyError, match="hf://acme/open/update: the repository is public, and it tells"),
            store.destination(ref("acme/open/update"), message="Update", confidential=why),
        ):
            pass
        for allowed in (ref(f"{REPO}/update"), ref("acme/new/update"), tmp_path / "update"):
            with store.destination(allowed, message="Update", confidential=why) as place:
                write(place)
        assert hub.repo("acme/new").private

    def test_a_repository_that_became_public_meanwhile_is_refused_too(self, hub, api, first):
        def update():
            with store.destination(ref("acme/late/update"), message="Update", confidential="it tells") as place:
                write(place)
                api.create_repo("acme/late")

        with pytest.raises(SecrecyError, match="public, and it tells"):
            update()
        assert [path for path in hub.requests if "/acme/late/commit" in path] == []


class TestTalk:
    @pytest.mark.parametrize("token", ["hf_secret", "hf_se\0cret", "hf_se\u2019cret", "plain\0secret"])
    def test_a_token_is_never_told(self, monkeypatch, capfd, hub, tmp_path, token):
        use_token(monkeypatch, None)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        (tmp_path / "token").write_text(token, encoding="utf-8")
        for call in (lambda: store.fetch(ref()), lambda: store.fetch_model(ref(f"{REPO}@{'0' * 40}"))):
            with pytest.raises(HubError, match=r"cannot be reached|answers 401") as refused:
                call()
            told = [str(refused.value), str(refused.value.hint), *capfd.readouterr()]
            assert not any("cret" in text for text in told)

    def test_the_client_keeps_quiet(self, monkeypatch, capfd, recwarn, hub, api, first):
        monkeypatch.setenv("TQDM_POSITION", "-1")  # bars, terminal or not
        api.snapshot_download(REPO)
        assert capfd.readouterr().err
        notes = logging.handlers.BufferingHandler(100)
        monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [notes])
        store.fetch(ref(f"{REPO}/round-0000/package"))
        store.fetch_model(ref())
        with pytest.raises(InputError):
            store.fetch(ref(f"{REPO}/nowhere"))
        for name, content in (("README.md", b"No metadata"), ("out.safetensors", WEIGHTS)):
            for _ in range(2):
                with store.destination(ref(f"{REPO}/{name}"), message="Quiet", force=True) as place:
                    write(place, content)
        assert capfd.readouterr() == ("", "")
        assert [note.getMessage() for note in notes.buffer] == []
        assert [str(one.message) for one in recwarn if one.category is not DeprecationWarning] == []
        api.snapshot_download(REPO, force_download=True, allow_patterns="nowhere")
        assert capfd.readouterr().err
        assert notes.buffer

    def test_the_cache_folder_is_the_users(self, monkeypatch, tmp_path):
        monkeypatch.delenv("FEDLPP_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert store.cache_folder() == tmp_path / "fedlpp"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert store.cache_folder() == Path.home() / ".cache" / "fedlpp"
