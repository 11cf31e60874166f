"""The test Hub against the real, unmodified client: each thing the server speaks, spoken by `huggingface_hub`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    RepoFile,
    RepoFolder,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info
from huggingface_hub.utils import get_session
from support.hub_server import CLIENT_SWITCHES, HubServer

REPO = "acme/proxy"
WEIGHTS = bytes(range(256)) * 40
README = "---\nlicense: mit\n---\n# A proxy\n"


@pytest.fixture(autouse=True)
def _plain_client(monkeypatch):
    for switch in CLIENT_SWITCHES:
        monkeypatch.setattr(constants, switch, True)


@pytest.fixture
def hub():
    with HubServer(tokens={"hf_owner": "acme", "hf_guest": "guest"}) as server:
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
def folder(tmp_path):
    root = tmp_path / "folder"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "README.md").write_text(README)
    (root / "adapter.safetensors").write_bytes(WEIGHTS)
    (root / "sub" / "notes.txt").write_text("notes")
    (root / "sub" / "deep" / "data.npz").write_bytes(b"PK" + WEIGHTS)
    return root


def put(api, path, content, **options):
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=options.pop("repo_id", REPO), **options)


def child(hub, home, code, token=None, env=None):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env or hub.environ(home, token),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestRepos:
    @pytest.mark.parametrize("repo_type", ["model", "dataset"])
    def test_a_repo_is_created_described_and_deleted(self, hub, api, repo_type):
        url = api.create_repo("acme/new", repo_type=repo_type, private=True)
        assert (url.repo_id, url.repo_type) == ("acme/new", repo_type)
        assert hub.repo("acme/new", repo_type).private
        info = api.repo_info("acme/new", repo_type=repo_type)
        assert (info.id, info.private) == ("acme/new", True)
        assert [sibling.rfilename for sibling in info.siblings] == [".gitattributes"]
        api.delete_repo("acme/new", repo_type=repo_type)
        assert not api.repo_exists("acme/new", repo_type=repo_type)
        with pytest.raises(RepositoryNotFoundError):
            api.delete_repo("acme/new", repo_type=repo_type)

    def test_a_model_and_a_dataset_may_share_a_name(self, hub, api):
        api.create_repo(REPO, repo_type="dataset")
        put(api, "a.txt", b"dataset", repo_type="dataset")
        assert not api.file_exists(REPO, "a.txt")
        assert hub.repo(REPO, "dataset").file("main", "a.txt")[1].content == b"dataset"

    def test_creating_twice_is_a_conflict_unless_allowed(self, hub, api):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo(REPO)
        assert refused.value.response.status_code == 409
        assert api.create_repo(REPO, private=True, exist_ok=True).repo_id == REPO
        assert not hub.repo(REPO).private

    def test_a_name_alone_is_in_the_callers_namespace(self, hub, guest):
        assert guest.create_repo("mine").repo_id == "guest/mine"
        assert hub.repo("guest/mine").owner == "guest"

    def test_whoami(self, api, stranger):
        assert api.whoami()["name"] == "acme"
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            stranger.whoami(token="hf_wrong")


class TestRevisions:
    def test_branch_tag_and_commit_each_name_a_state(self, api):
        first = put(api, "a.txt", b"1").oid
        api.create_tag(REPO, tag="v1")
        api.create_branch(REPO, branch="side/line", revision=first)
        second = put(api, "a.txt", b"2").oid
        assert api.model_info(REPO).sha == second
        for revision in ("v1", "side/line", first):
            assert api.repo_info(REPO, revision=revision).sha == first
        third = put(api, "b.txt", b"3", revision="side/line").oid
        assert api.model_info(REPO).sha == second
        assert api.list_repo_files(REPO, revision="side/line") == [".gitattributes", "a.txt", "b.txt"]
        refs = api.list_repo_refs(REPO, include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "side/line": third}
        assert [(tag.ref, tag.target_commit) for tag in refs.tags] == [("refs/tags/v1", first)]
        assert refs.pull_requests == []

    def test_a_ref_is_made_once_and_from_something(self, api):
        api.create_branch(REPO, branch="side")
        api.create_tag(REPO, tag="v1")
        for again in (lambda: api.create_branch(REPO, branch="side"), lambda: api.create_tag(REPO, tag="v1")):
            with pytest.raises(HfHubHTTPError) as refused:
                again()
            assert refused.value.response.status_code == 409
        api.create_branch(REPO, branch="side", exist_ok=True)
        with pytest.raises(RevisionNotFoundError):
            api.create_tag(REPO, tag="v2", revision="nowhere")
        with pytest.raises(BadRequestError):
            api.create_branch(REPO, branch="refs/pr/5")

    def test_commits_are_listed_last_first(self, hub, api):
        oids = [put(api, "a.txt", b"%d" % n, commit_message=f"Round {n}").oid for n in range(3)]
        listed = api.list_repo_commits(REPO)
        assert [commit.title for commit in listed] == ["Round 2", "Round 1", "Round 0", "initial commit"]
        assert [commit.commit_id for commit in listed[:3]] == oids[::-1]
        assert listed[0].authors == ["acme"]
        assert hub.commits(REPO) == [(commit.commit_id, commit.title) for commit in listed]

    def test_a_pull_request_leaves_main_alone(self, hub, api, guest):
        before = api.model_info(REPO).sha
        proposed = put(guest, "b.bin", WEIGHTS, create_pr=True)
        assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
        assert api.model_info(REPO).sha == before
        assert api.model_info(REPO, revision="refs/pr/1").sha == proposed.oid
        more = put(guest, "c.txt", b"c", revision="refs/pr/1").oid
        assert [oid for oid, _ in hub.commits(REPO, "refs/pr/1")] == [more, proposed.oid, before]
        refs = api.list_repo_refs(REPO, include_pull_requests=True)
        assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests] == [("refs/pr/1", more)]


class TestTrees:
    @pytest.fixture(autouse=True)
    def _filled(self, api, folder):
        api.upload_folder(repo_id=REPO, folder_path=folder)

    def test_a_tree_is_listed_flat_or_deep_from_any_folder(self, api):
        top = list(api.list_repo_tree(REPO))
        assert [line.path for line in top if isinstance(line, RepoFolder)] == ["sub"]
        assert [line.path for line in top if isinstance(line, RepoFile)] == [
            ".gitattributes",
            "README.md",
            "adapter.safetensors",
        ]
        assert {line.path for line in api.list_repo_tree(REPO, "sub")} == {"sub/deep", "sub/notes.txt"}
        deep = {line.path: line for line in api.list_repo_tree(REPO, recursive=True)}
        assert set(deep) - {line.path for line in top} == {"sub/deep", "sub/deep/data.npz", "sub/notes.txt"}
        assert deep["adapter.safetensors"].size == deep["adapter.safetensors"].lfs.size == len(WEIGHTS)
        assert deep["sub/notes.txt"].lfs is None
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(REPO, "nowhere"))

    def test_files_are_listed_and_looked_up_by_path(self, api):
        assert api.list_repo_files(REPO) == [
            ".gitattributes",
            "README.md",
            "adapter.safetensors",
            "sub/deep/data.npz",
            "sub/notes.txt",
        ]
        found = api.get_paths_info(REPO, ["sub", "README.md", "nothing"])
        assert [(type(line), line.path) for line in found] == [(RepoFolder, "sub"), (RepoFile, "README.md")]
        sizes = {s.rfilename: s.size for s in api.model_info(REPO, files_metadata=True).siblings}
        assert sizes["sub/notes.txt"] == 5


class TestCommits:
    def test_one_commit_carries_every_kind_of_operation(self, hub, api, folder):
        api.upload_folder(repo_id=REPO, folder_path=folder)
        count = len(hub.commits(REPO))
        made = api.create_commit(
            REPO,
            commit_message="All at once",
            commit_description="In detail",
            operations=[
                CommitOperationAdd("new.txt", b"new"),
                CommitOperationAdd("new.bin", b"bits"),
                CommitOperationDelete("README.md"),
                CommitOperationCopy("adapter.safetensors", "copy.safetensors"),
                CommitOperationDelete("sub/"),
            ],
        )
        assert len(made.oid) == 40
        assert hub.commits(REPO)[0] == (made.oid, "All at once")
        assert len(hub.commits(REPO)) == count + 1
        assert api.list_repo_commits(REPO)[0].message == "In detail"
        assert api.list_repo_files(REPO) == [
            ".gitattributes",
            "adapter.safetensors",
            "copy.safetensors",
            "new.bin",
            "new.txt",
        ]
        assert hub.file(REPO, "main", "copy.safetensors") == WEIGHTS
        assert hub.file(REPO, "main", "new.txt") == b"new"

    def test_a_refused_commit_changes_nothing(self, hub, api):
        before = hub.commits(REPO)
        operations = [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("nothing.txt")]
        with pytest.raises(EntryNotFoundError):
            api.create_commit(REPO, operations=operations, commit_message="Half wrong")
        assert hub.commits(REPO) == before

    def test_a_stale_parent_is_refused(self, hub, api):
        old = api.model_info(REPO).sha
        new = put(api, "a.txt", b"1", parent_commit=old).oid
        with pytest.raises(HfHubHTTPError) as refused:
            put(api, "a.txt", b"2", parent_commit=old)
        assert refused.value.response.status_code == 412
        put(api, "a.txt", b"2", parent_commit=new)
        assert hub.file(REPO, "main", "a.txt") == b"2"

    def test_of_commits_on_one_parent_one_wins(self, hub, api):
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

    def test_an_unchanged_folder_makes_no_commit(self, hub, api, folder):
        first = api.upload_folder(repo_id=REPO, folder_path=folder)
        assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first.oid
        assert len(hub.commits(REPO)) == 2

    def test_a_readme_is_checked(self, api):
        put(api, "README.md", README.encode())
        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            put(api, "README.md", b"# No metadata\n")
        with pytest.raises(ValueError, match="Invalid metadata"):
            put(api, "README.md", b"---\nlicense: mit\n# Never closed\n")


class TestLfs:
    @pytest.mark.parametrize(
        ("path", "content", "lfs"),
        [
            ("a.safetensors", b"small", True),
            ("sub/a.bin", b"small", True),
            ("a.parquet", b"small", True),
            ("a.json", b"{}", False),
            ("a.txt", b"looks\0binary", True),
            ("a.jsonl", b"x" * (10 * 2**20 + 1), True),
            ("empty.safetensors", b"", False),
        ],
    )
    def test_name_size_or_bytes_send_a_file_to_lfs(self, hub, api, path, content, lfs):
        api.create_repo("acme/data", repo_type="dataset")
        put(api, path, content, repo_id="acme/data", repo_type="dataset")
        line = api.get_paths_info("acme/data", path, repo_type="dataset")[0]
        assert (line.lfs is not None) == lfs
        assert line.size == len(content)
        assert any(request.startswith("PUT /storage/") for request in hub.requests) == lfs
        assert hub.file("acme/data", "main", path) == content

    def test_an_object_is_uploaded_once(self, hub, api, folder):
        put(api, "a.safetensors", str(folder / "adapter.safetensors"))
        put(api, "b.safetensors", WEIGHTS)
        assert sum(request.startswith("PUT ") for request in hub.requests) == 1
        assert hub.requests.count(f"POST /{REPO}.git/info/lfs/verify") == 1
        assert hub.file(REPO, "main", "b.safetensors") == WEIGHTS

    def test_storage_takes_only_the_object_it_was_promised(self, hub, api):
        promised = UploadInfo.from_bytes(WEIGHTS)
        lines, errors, transfer = post_lfs_batch_info(
            [promised], token="hf_owner", repo_type="model", repo_id=REPO, endpoint=hub.url
        )
        assert (errors, transfer) == ([], "basic")
        actions = lines[0]["actions"]
        for wrong in (WEIGHTS[:-1], WEIGHTS[::-1]):
            assert get_session().put(actions["upload"]["href"], content=wrong).status_code == 400
        claim = {"oid": promised.sha256.hex(), "size": promised.size}
        authorized = {"authorization": "Bearer hf_owner"}
        verify = actions["verify"]["href"]
        assert get_session().post(verify, json=claim, headers=authorized).status_code == 400
        assert get_session().put(actions["upload"]["href"], content=WEIGHTS).status_code == 200
        assert get_session().post(verify, json=claim, headers=authorized).status_code == 200

    def test_a_commit_cannot_point_at_an_object_that_never_came(self, api):
        addition = CommitOperationAdd("a.safetensors", WEIGHTS)
        addition._upload_mode, addition._is_uploaded = "lfs", True
        with pytest.raises(BadRequestError, match="no such LFS object"):
            api.create_commit(REPO, operations=[addition], commit_message="Pointer to nothing")


class TestDownloads:
    @pytest.fixture(autouse=True)
    def _filled(self, api, folder):
        api.upload_folder(repo_id=REPO, folder_path=folder)

    @pytest.mark.parametrize(("path", "lfs"), [("sub/notes.txt", False), ("adapter.safetensors", True)])
    def test_a_file_comes_once_into_the_cache(self, hub, api, folder, tmp_path, path, lfs):
        metadata = get_hf_file_metadata(hf_hub_url(REPO, path, endpoint=hub.url))
        assert metadata.commit_hash == hub.commits(REPO)[0][0]
        assert metadata.size == (folder / path).stat().st_size
        assert metadata.etag == hub.repo(REPO).file("main", path)[1].etag
        assert ("/storage/" in metadata.location) == lfs
        hub.requests.clear()
        for _ in range(2):
            got = Path(api.hf_hub_download(REPO, path, cache_dir=tmp_path / "cache"))
            assert got.read_bytes() == (folder / path).read_bytes()
        assert got.parts[-len(Path(path).parts) - 1] == metadata.commit_hash
        assert [request.split()[0] for request in hub.requests] == ["HEAD", "GET", "HEAD"]
        assert not any(request.startswith("HEAD /storage/") for request in hub.requests)

    def test_a_file_comes_into_a_folder(self, api, folder, tmp_path):
        for path in ("sub/notes.txt", "adapter.safetensors"):
            api.hf_hub_download(REPO, path, local_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
            assert (tmp_path / "out" / path).read_bytes() == (folder / path).read_bytes()

    def test_a_snapshot_comes_whole_or_in_part(self, api, folder, tmp_path):
        sha = api.model_info(REPO).sha
        put(api, "README.md", README.encode() + b"later")
        whole = Path(api.snapshot_download(REPO, revision=sha, cache_dir=tmp_path / "cache"))
        assert whole.name == sha
        names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        assert all((whole / name).read_bytes() == (folder / name).read_bytes() for name in names)
        out = tmp_path / "out"
        api.snapshot_download(REPO, local_dir=out, allow_patterns=["sub/*"], cache_dir=tmp_path / "other")
        found = {path.relative_to(out).as_posix() for path in (out / "sub").rglob("*") if path.is_file()}
        assert found == {"sub/notes.txt", "sub/deep/data.npz"}
        assert not (out / "README.md").exists()

    def test_a_dataset_comes_too(self, api, tmp_path):
        api.create_repo("acme/data", repo_type="dataset", private=True)
        put(api, "train.bin", WEIGHTS, repo_id="acme/data", repo_type="dataset")
        got = api.hf_hub_download("acme/data", "train.bin", repo_type="dataset", cache_dir=tmp_path)
        assert Path(got).read_bytes() == WEIGHTS

    @pytest.mark.parametrize("path", ["adapter.safetensors", "README.md"])
    def test_a_range_comes_alone(self, hub, folder, path):
        content = (folder / path).read_bytes()
        fs = HfFileSystem(endpoint=hub.url, token="hf_owner", skip_instance_cache=True)
        assert fs.cat_file(f"{REPO}/{path}", start=5, end=20) == content[5:20]
        url = hf_hub_url(REPO, path, endpoint=hub.url)
        for wanted, expected in (
            ("bytes=3-", content[3:]),
            ("bytes=-4", content[-4:]),
            ("bytes=0-0", content[:1]),
        ):
            got = get_session().get(url, headers={"Range": wanted})
            assert (got.status_code, got.content) == (206, expected)
        assert get_session().get(url, headers={"Range": "bytes=999999-"}).status_code == 416


class TestAccess:
    def test_what_is_not_there_is_named(self, api, stranger, tmp_path):
        calls = [
            (RepositoryNotFoundError, lambda: api.model_info("acme/nothing")),
            (RepositoryNotFoundError, lambda: stranger.model_info("no-namespace")),
            (RepositoryNotFoundError, lambda: api.hf_hub_download("acme/nothing", "a", cache_dir=tmp_path)),
            (RepositoryNotFoundError, lambda: api.snapshot_download("acme/nothing", cache_dir=tmp_path)),
            (RevisionNotFoundError, lambda: api.model_info(REPO, revision="nowhere")),
            (RevisionNotFoundError, lambda: api.model_info(REPO, revision="0" * 40)),
            (RevisionNotFoundError, lambda: api.hf_hub_download(REPO, "a", revision="no", cache_dir=tmp_path)),
            (RevisionNotFoundError, lambda: put(api, "a.txt", b"a", revision="nowhere")),
            (EntryNotFoundError, lambda: api.hf_hub_download(REPO, "nothing", cache_dir=tmp_path)),
        ]
        for error, call in calls:
            with pytest.raises(error):
                call()
        assert list(tmp_path.rglob(".no_exist/*/nothing"))

    def test_a_private_repo_is_seen_by_its_owner_only(self, hub, api, guest, stranger, tmp_path):
        api.create_repo("acme/secret", private=True)
        put(api, "a.bin", WEIGHTS, repo_id="acme/secret")
        assert api.repo_exists("acme/secret")
        for other, status in ((guest, 404), (stranger, 401)):
            assert not other.repo_exists("acme/secret")
            for call in (
                lambda other=other: other.hf_hub_download("acme/secret", "a.bin", cache_dir=tmp_path / "other"),
                lambda other=other: put(other, "b.txt", b"b", repo_id="acme/secret"),
            ):
                with pytest.raises(RepositoryNotFoundError) as refused:
                    call()
                assert refused.value.response.status_code == status
        assert Path(api.hf_hub_download("acme/secret", "a.bin", cache_dir=tmp_path)).read_bytes() == WEIGHTS

    def test_writing_takes_the_namespaces_token(self, hub, guest, stranger, api):
        before = hub.commits(REPO)
        writes = [
            lambda api: put(api, "a.txt", b"a"),
            lambda api: api.create_branch(REPO, branch="side"),
            lambda api: api.create_repo("acme/other"),
            lambda api: api.delete_repo(REPO),
        ]
        wrong = HfApi(endpoint=hub.url, token="hf_wrong")
        for other, status in ((guest, 403), (stranger, 401), (wrong, 401)):
            for write in writes:
                with pytest.raises(HfHubHTTPError) as refused:
                    write(other)
                assert refused.value.response.status_code == status
        assert hub.commits(REPO) == before
        assert guest.model_info(REPO).sha == stranger.model_info(REPO).sha


class TestFaults:
    def test_a_fault_meets_the_next_matching_calls_only(self, hub, api):
        hub.fail_next(2, 500, method="POST", path_contains="/commit/")
        for _ in range(2):
            with pytest.raises(HfHubHTTPError) as refused:
                put(api, "a.txt", b"a")
            assert refused.value.response.status_code == 500
        put(api, "a.txt", b"a")
        assert len(hub.commits(REPO)) == 2

    def test_the_client_tries_a_listing_again(self, hub, api):
        hub.fail_next(1, 503, path_contains="/tree/")
        assert api.list_repo_files(REPO) == [".gitattributes"]

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

    def test_a_stopped_hub_answers_nobody(self):
        with HubServer(tokens={"hf_owner": "acme"}) as server:
            api = HfApi(endpoint=server.url, token="hf_owner")
            api.whoami()
        with pytest.raises(httpx2.TransportError):
            api.whoami()


class TestChildren:
    def test_the_client_uploads_and_downloads_by_environment(self, hub, api, folder, tmp_path):
        code = (
            "import sys, huggingface_hub as h\n"
            "h.create_repo('acme/child', private=True)\n"
            "h.upload_folder(repo_id='acme/child', folder_path=sys.argv[1])\n"
            "print(h.snapshot_download('acme/child'))\n"
        ).replace("sys.argv[1]", repr(str(folder)))
        done = child(hub, tmp_path / "home", code, token="hf_owner")
        assert done.returncode == 0, done.stderr
        snapshot = Path(done.stdout.strip())
        assert snapshot.is_relative_to(tmp_path / "home")
        assert (snapshot / "adapter.safetensors").read_bytes() == WEIGHTS
        assert hub.repo("acme/child").private

    def test_an_upload_through_xet_fails_at_once(self, hub, api, tmp_path):
        env = hub.environ(tmp_path, token="hf_owner")
        del env["HF_HUB_DISABLE_XET"]
        upload = "h.upload_file(path_or_fileobj=b'{{}}', path_in_repo={!r}, repo_id={!r})\n"
        code = "import huggingface_hub as h\n" + upload.format("a.json", REPO) + upload.format("a.bin", REPO)
        done = child(hub, tmp_path, code, env=env)
        assert "ConnectionError" in done.stderr
        assert f"GET /api/models/{REPO}/xet-write-token/main" in hub.requests
        assert api.list_repo_files(REPO) == [".gitattributes", "a.json"]

    def test_transformers_reads_a_config(self, hub, api, tmp_path):
        put(api, "config.json", b'{"model_type": "llama", "hidden_size": 64}')
        code = f"import transformers; print(transformers.AutoConfig.from_pretrained({REPO!r}).hidden_size)"
        done = child(hub, tmp_path, code)
        assert (done.returncode, done.stdout.strip()) == (0, "64"), done.stderr

    def test_datasets_loads_a_split(self, hub, api, tmp_path):
        api.create_repo("acme/data", repo_type="dataset", private=True)
        rows = b'{"text": "one"}\n{"text": "two"}\n'
        put(api, "train.jsonl", rows, repo_id="acme/data", repo_type="dataset")
        code = "import datasets; print(datasets.load_dataset('acme/data', split='train')['text'][:])"
        done = child(hub, tmp_path, code, token="hf_owner")
        assert (done.returncode, done.stdout.strip()) == (0, "['one', 'two']"), done.stderr
        assert "DatasetNotFoundError" in child(hub, tmp_path / "stranger", code).stderr
