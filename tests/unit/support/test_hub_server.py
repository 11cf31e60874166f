"""The test Hub against the real, unmodified client: what it speaks, spoken by `huggingface_hub`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info
from huggingface_hub.utils import get_session
from support.hub_client import use_hub
from support.hub_server import HubServer

REPO = "acme/proxy"
WEIGHTS = bytes(range(256)) * 40
README = "---\nlicense: mit\n---\n# A proxy\n"
FILES = {"README.md": README.encode(), "adapter.safetensors": WEIGHTS, "sub/notes.txt": b"notes"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer(tokens={"hf_owner": "acme", "hf_guest": "guest"}) as server:
        use_hub(monkeypatch, server, tmp_path / "home")
        yield server


@pytest.fixture
def api(hub):
    api = HfApi(endpoint=hub.url, token="hf_owner")
    api.create_repo(REPO)
    return api


@pytest.fixture
def guest(hub):
    return HfApi(endpoint=hub.url, token="hf_guest")


@pytest.fixture
def stranger(hub):
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def filled(api):
    operations = [CommitOperationAdd(path, content) for path, content in FILES.items()]
    return api.create_commit(REPO, operations, commit_message="All files").oid


def put(api, path, content, **options):
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=options.pop("repo_id", REPO), **options)


def child(env, code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


class TestRepositories:
    @pytest.mark.parametrize("repo_type", ["model", "dataset"])
    def test_one_is_created_and_described(self, hub, api, repo_type):
        api.create_repo("acme/new", repo_type=repo_type, private=True)
        info = api.repo_info("acme/new", repo_type=repo_type)
        assert (info.id, info.private, info.sha) == ("acme/new", True, hub.commits("acme/new")[0][0])
        assert [sibling.rfilename for sibling in info.siblings] == [".gitattributes"]

    def test_creating_twice_is_a_conflict_unless_allowed(self, hub, api):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo(REPO)
        assert refused.value.response.status_code == 409
        assert api.create_repo(REPO, private=True, exist_ok=True).repo_id == REPO
        assert not hub.repo(REPO).private

    def test_branch_tag_and_commit_each_name_a_state(self, api):
        first = put(api, "a.txt", b"1").oid
        api.create_tag(REPO, tag="v1")
        api.create_branch(REPO, branch="side/line", revision=first)
        second = put(api, "a.txt", b"2").oid
        assert api.model_info(REPO).sha == second
        assert {api.repo_info(REPO, revision=revision).sha for revision in ("v1", "side/line", first)} == {first}
        put(api, "b.txt", b"3", revision="side/line")
        assert api.list_repo_files(REPO, revision="side/line") == [".gitattributes", "a.txt", "b.txt"]
        assert api.model_info(REPO).sha == second

    def test_a_pull_request_leaves_main_alone(self, hub, api, guest):
        before = api.model_info(REPO).sha
        proposed = put(guest, "b.bin", WEIGHTS, create_pr=True)
        more = put(guest, "c.txt", b"c", revision=proposed.pr_revision).oid
        assert api.model_info(REPO).sha == before
        assert [oid for oid, _ in hub.commits(REPO, "refs/pr/1")] == [more, proposed.oid, before]


class TestCommits:
    def test_one_carries_every_operation(self, hub, api, filled):
        operations = [
            CommitOperationAdd("new.txt", b"new"),
            CommitOperationDelete("README.md"),
            CommitOperationDelete("sub/"),
        ]
        made = api.create_commit(REPO, operations, commit_message="All at once")
        assert hub.commits(REPO)[:2] == [(made.oid, "All at once"), (filled, "All files")]
        assert api.list_repo_files(REPO) == [".gitattributes", "adapter.safetensors", "new.txt"]

    def test_a_refused_one_changes_nothing(self, hub, api):
        before = hub.commits(REPO)
        operations = [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("nothing.txt")]
        with pytest.raises(EntryNotFoundError):
            api.create_commit(REPO, operations=operations, commit_message="Half wrong")
        assert hub.commits(REPO) == before

    def test_of_several_on_one_parent_one_wins(self, hub, api):
        parent = api.model_info(REPO).sha

        def attempt(n):
            try:
                return put(api, f"{n}.txt", b"%d" % n, parent_commit=parent).oid
            except HfHubHTTPError as error:
                return error.response.status_code

        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(attempt, range(4)))
        assert outcomes.count(412) == 3
        assert hub.commits(REPO)[0][0] in outcomes
        assert len(hub.commits(REPO)) == 2

    def test_unchanged_files_make_none(self, hub, api, filled):
        assert put(api, "adapter.safetensors", WEIGHTS).oid == filled
        assert len(hub.commits(REPO)) == 2


class TestLargeFiles:
    @pytest.mark.parametrize(
        ("path", "content", "lfs"),
        [("a/b.safetensors", b"small", True), ("a.json", b"{}", False), ("a.txt", b"looks\0binary", True)],
    )
    def test_name_or_bytes_send_a_file_to_storage(self, hub, api, path, content, lfs):
        put(api, path, content)
        line = api.get_paths_info(REPO, path)[0]
        assert ((line.lfs is not None), line.size) == (lfs, len(content))
        assert any(request.startswith("PUT /storage/") for request in hub.requests) == lfs
        assert hub.file(REPO, "main", path) == content

    def test_an_object_is_uploaded_once(self, hub, api):
        put(api, "a.safetensors", WEIGHTS)
        put(api, "b.safetensors", WEIGHTS)
        assert sum(request.startswith("PUT ") for request in hub.requests) == 1

    def test_storage_takes_only_the_object_it_was_promised(self, hub, api):
        promised = UploadInfo.from_bytes(WEIGHTS)
        options = {"token": "hf_owner", "repo_type": "model", "repo_id": REPO, "endpoint": hub.url}
        lines, errors, transfer = post_lfs_batch_info([promised], **options)
        assert (errors, transfer) == ([], "basic")
        href = lines[0]["actions"]["upload"]["href"]
        sent = [get_session().put(href, content=content).status_code for content in (WEIGHTS[:-1], WEIGHTS[::-1])]
        assert [*sent, get_session().put(href, content=WEIGHTS).status_code] == [400, 400, 200]

    def test_a_commit_cannot_point_at_an_object_that_never_came(self, api):
        addition = CommitOperationAdd("a.safetensors", WEIGHTS)
        addition._upload_mode, addition._is_uploaded = "lfs", True
        with pytest.raises(BadRequestError, match="no such LFS object"):
            api.create_commit(REPO, operations=[addition], commit_message="Pointer to nothing")


class TestDownloads:
    @pytest.mark.parametrize(("path", "lfs"), [("sub/notes.txt", False), ("adapter.safetensors", True)])
    def test_a_file_comes_once_into_the_cache(self, hub, api, filled, path, lfs):
        metadata = get_hf_file_metadata(hf_hub_url(REPO, path, endpoint=hub.url))
        assert (metadata.commit_hash, metadata.size) == (filled, len(FILES[path]))
        assert ("/storage/" in metadata.location) == lfs
        hub.requests.clear()
        assert {Path(api.hf_hub_download(REPO, path)).read_bytes() for _ in range(2)} == {FILES[path]}
        assert [request.split()[0] for request in hub.requests] == ["HEAD", "GET", "HEAD"]

    def test_a_snapshot_comes_at_its_commit(self, api, filled, tmp_path):
        put(api, "README.md", README.encode() + b"later")
        out = tmp_path / "out"
        api.snapshot_download(REPO, revision=filled, local_dir=out, allow_patterns=["sub/*", "README.md"])
        found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("[!.]*/*")}
        assert found == {"sub/notes.txt": b"notes"}
        assert (out / "README.md").read_bytes() == FILES["README.md"]

    def test_a_range_comes_alone(self, hub, filled):
        url = hf_hub_url(REPO, "adapter.safetensors", endpoint=hub.url)
        got = get_session().get(url, headers={"Range": "bytes=5-9"}, follow_redirects=True)
        assert (got.status_code, got.content) == (206, WEIGHTS[5:10])


class TestAccess:
    def test_what_is_not_there_is_named(self, api):
        calls = [
            (RepositoryNotFoundError, lambda: api.model_info("acme/nothing")),
            (RevisionNotFoundError, lambda: api.model_info(REPO, revision="nowhere")),
            (RevisionNotFoundError, lambda: put(api, "a.txt", b"a", revision="nowhere")),
            (EntryNotFoundError, lambda: api.hf_hub_download(REPO, "nothing")),
        ]
        for error, call in calls:
            with pytest.raises(error):
                call()

    def test_a_private_repository_is_seen_by_its_owner_and_readers_only(self, hub, api, guest, stranger):
        api.create_repo("acme/secret", private=True)
        put(api, "a.bin", WEIGHTS, repo_id="acme/secret")
        for other, status in ((guest, 404), (stranger, 401)):
            for call in (other.auth_check, other.model_info):
                with pytest.raises(RepositoryNotFoundError) as refused:
                    call("acme/secret")
                assert refused.value.response.status_code == status
        assert Path(api.hf_hub_download("acme/secret", "a.bin")).read_bytes() == WEIGHTS
        hub.repo("acme/secret").readers.add("guest")
        guest.auth_check("acme/secret")
        with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
            guest.auth_check("acme/secret", write=True)

    def test_writing_takes_the_namespaces_token(self, hub, api, guest, stranger):
        before = hub.commits(REPO)
        writes = [
            lambda api: put(api, "a.txt", b"a"),
            lambda api: api.create_branch(REPO, branch="side"),
            lambda api: api.create_repo("acme/other"),
            lambda api: api.auth_check(REPO, write=True),
        ]
        wrong = HfApi(endpoint=hub.url, token="hf_wrong")
        for other, status in ((guest, 403), (stranger, 401), (wrong, 401)):
            for write in writes:
                with pytest.raises(HfHubHTTPError) as refused:
                    write(other)
                assert refused.value.response.status_code == status
        api.auth_check(REPO, write=True)
        assert hub.commits(REPO) == before


class TestFaults:
    def test_one_meets_the_next_matching_calls_only(self, hub, api):
        hub.fail_next(2, 500, method="POST", path_contains="/commit/")
        for _ in range(2):
            with pytest.raises(HfHubHTTPError):
                put(api, "a.txt", b"a")
        put(api, "a.txt", b"a")
        assert len(hub.commits(REPO)) == 2

    def test_a_lost_reply_leaves_the_work_done(self, hub, api):
        hub.fail_next(1, 502, path_contains="/commit/", lose_reply=True)
        with pytest.raises(HfHubHTTPError):
            put(api, "a.txt", b"a")
        assert hub.file(REPO, "main", "a.txt") == b"a"

    def test_status_0_hangs_up(self, hub, api):
        hub.fail_next(1, 0, path_contains="/whoami-v2")
        with pytest.raises(httpx2.RemoteProtocolError):
            api.whoami()
        assert api.whoami()["name"] == "acme"

    def test_status_200_hangs_up_halfway(self, hub, filled):
        hub.fail_next(1, 200, path_contains="/storage/")
        url = hf_hub_url(REPO, "adapter.safetensors", endpoint=hub.url)
        with pytest.raises(httpx2.RemoteProtocolError, match="without sending complete"):
            get_session().get(url, follow_redirects=True)


class TestChildren:
    def test_the_client_works_by_environment(self, hub, api, tmp_path):
        code = "import huggingface_hub as h; h.create_repo('acme/child', private=True)"
        done = child(hub.environ(tmp_path, token="hf_owner"), code)
        assert done.returncode == 0, done.stderr
        assert hub.repo("acme/child").private

    def test_an_upload_through_xet_fails_at_once(self, hub, api, tmp_path):
        env = hub.environ(tmp_path, token="hf_owner")
        del env["HF_HUB_DISABLE_XET"]
        code = "import huggingface_hub as h; h.upload_file(path_or_fileobj=b'a', path_in_repo='a.bin', repo_id={!r})"
        done = child(env, code.format(REPO))
        assert "ConnectionError" in done.stderr
        assert f"GET /api/models/{REPO}/xet-write-token/main" in hub.requests
