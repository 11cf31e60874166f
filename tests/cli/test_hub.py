"""The command line on hf:// addresses, against the test Hub."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi, constants
from support.hub_client import use_endpoint, use_hub, use_token
from support.hub_server import HubServer
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.records.headers import MasterHeader

RUN = "hf://acme/run"
PACKAGE = f"{RUN}/round-0000/package"
RECIPE = ["--steps", "3", "--batch-size", "4", "--learning-rate", "1e-2"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer(tokens={"hf_owner": "acme", "hf_guest": "guest"}) as server:
        use_hub(monkeypatch, server, tmp_path / "home", token="hf_owner")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_owner")


@pytest.fixture
def shared(api, played):
    """What owner and clients have of a round that was played: `acme/run`, private."""
    api.create_repo("acme/run", private=True)
    for name in ("package", "updates"):
        folder = played.round(0) / name
        api.upload_folder(repo_id="acme/run", folder_path=folder, path_in_repo=f"round-0000/{name}")
    return hub_commit(api)


@pytest.fixture
def rows(api, tmp_path):
    """A data set of two splits on the Hub, and the test split as a file."""
    api.create_repo("acme/rows", repo_type="dataset", private=True)
    for seed, split in enumerate(("train", "test")):
        file = write_jsonl(tmp_path / "rows" / f"{split}.jsonl", prompt_rows(8, seed=seed))
        api.upload_file(repo_id="acme/rows", repo_type="dataset", path_or_fileobj=file, path_in_repo=file.name)
    return tmp_path / "rows" / "test.jsonl"


@pytest.fixture
def fedlpp(runner):
    """Runs a command that succeeds; its data."""

    def run(*args):
        done = runner.invoke(app, [*map(str, args), "--json"])
        assert (done.exit_code, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)["data"]

    return run


@pytest.fixture
def fails(runner):
    """Runs a command that fails, with and without `--json`; its exit code and error."""

    def run(*args):
        done = runner.invoke(app, [*map(str, args), "--json"])
        envelope = json.loads(done.stdout)
        error = envelope["error"]
        hint = f"  hint: {error['hint']}\n" if error["hint"] else ""
        assert done.stderr == f"error: {error['message']}\n{hint}"
        assert (envelope["status"], envelope["command"]) == ("error", args[0])
        assert done.exit_code == error["exit_code"]
        plain = runner.invoke(app, [*map(str, args)])
        assert (plain.exit_code, plain.stdout, plain.stderr) == (done.exit_code, "", done.stderr)
        assert "\n" not in error["message"]
        return done.exit_code, error

    return run


def hub_commit(api, repo_id="acme/run", **options):
    return api.repo_info(repo_id, **options).sha


def child(env, *args):
    command = [sys.executable, "-m", "fedlpp_cli", *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


class TestExchange:
    def test_a_package_is_one_commit_in_a_private_repository(self, hub, played, fedlpp):
        local = fedlpp("inspect", played.package(0))
        made = fedlpp("pack", played.proxy(0), "--out", PACKAGE, *RECIPE)
        [(sha, title), _] = hub.commits("acme/run")
        assert (made["path"], title) == (f"{RUN}@{sha}/round-0000/package", "Package of round 0")
        assert hub.repo("acme/run").private
        assert made["sha256"] == local["sha256"]
        seen = fedlpp("inspect", PACKAGE)
        assert seen == local | {"path": PACKAGE}
        assert [one["kind"] for one in fedlpp("verify", PACKAGE)["artifacts"]] == ["package", "proxy"]

    def test_a_package_at_the_root_of_a_repository_opens(self, api, played, fedlpp):
        api.create_repo("acme/package", private=True)
        api.upload_folder(repo_id="acme/package", folder_path=played.package(0))
        assert fedlpp("inspect", "hf://acme/package")["sha256"] == fedlpp("inspect", played.package(0))["sha256"]

    def test_a_run_folder_on_the_hub_tells_where_it_stands(self, played, shared, fedlpp):
        here = fedlpp("status", played.folder, "--client", "a", "--client", "c")
        there = fedlpp("status", RUN, "--client", "a", "--client", "c")
        assert (there["federation"], there["round"], there["has_package"]) == (here["federation"], 0, True)
        assert (there["updates"], there["missing"]) == (["a", "b"], ["c"])
        [entry] = fedlpp("log", f"{RUN}@{shared}")["rounds"]
        assert entry == fedlpp("log", played.folder)["rounds"][0] | {"master": None}
        assert len(fedlpp("verify", RUN)["artifacts"]) == 4

    def test_a_client_trains_in_a_process_of_its_own_by_environment_alone(self, hub, played, shared, api, tmp_path):
        hub.repo("acme/run").private = False
        data, out = played.data("a"), "hf://guest/updates/a.safetensors"
        args = ("client-train", PACKAGE, "--client", "a", "--data", data, "--base", played.base, "--out", out)
        done = child(hub.environ(tmp_path / "guest", token="hf_guest") | {"FEDLPP_CACHE": str(tmp_path)}, *args, "-q")
        [(sha, title), _] = hub.commits("guest/updates")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"hf://guest/updates@{sha}/a.safetensors\n", "")
        assert (title, hub.repo("guest/updates").private) == ("Update of a", True)
        assert hub.file("guest/updates", "main", "a.safetensors") == played.update(0, "a").read_bytes()
        assert hub_commit(api) == shared

    def test_a_dry_run_sends_nothing(self, hub, played, shared, fedlpp):
        args = ("--client", "a", "--data", played.data("a"), "--base", played.base, "--device", "cpu", "--dry-run")
        assert fedlpp("client-train", PACKAGE, *args, "--out", "hf://acme/new/a.safetensors")["sha256"] is None
        assert fedlpp("pack", played.proxy(0), *RECIPE, "--out", "hf://acme/new/package", "--dry-run")["sha256"] is None
        assert ("model", "acme/new") not in hub.content.repos


class TestBase:
    def test_the_bases_address_stands_in_the_master_with_its_commit(self, hub, api, llama, fedlpp, fails, tmp_path):
        api.create_repo("acme/model")
        api.upload_folder(repo_id="acme/model", folder_path=llama, path_in_repo="tiny")
        sha = hub_commit(api, "acme/model")
        for flag, expected in (("--public-base", f"hf://acme/model@{sha}/tiny"), ("--private-base", None)):
            out = tmp_path / f"{flag}.safetensors"
            fedlpp("init", "--base", "hf://acme/model/tiny", "--rank", 4, "--max-length", 32, flag, "--out", out)
            with TensorFile(out, MasterHeader) as master:
                assert master.header.spec.model.base.hub == expected
        api.upload_file(repo_id="acme/model", path_or_fileobj=b"{}", path_in_repo="tiny/config.json")
        proxy, package = tmp_path / "proxy.safetensors", tmp_path / "package"
        fedlpp("quantize", tmp_path / "--public-base.safetensors", "--out", proxy)
        fedlpp("pack", proxy, "--out", package, *RECIPE)
        data = write_jsonl(tmp_path / "rows.jsonl", prompt_rows(8, seed=0))
        train = ("client-train", package, "--client", "a", "--data", data, "--device", "cpu", "--out", tmp_path / "a")
        assert fedlpp(*train)["metrics"]["n_steps"] == 3
        code, error = fails(*train, "--force", "--base", "hf://acme/model/tiny")
        assert (code, error["code"]) == (3, "model")


class TestData:
    def test_a_data_set_a_file_of_it_and_a_path_hold_the_same_rows(self, played, rows, fedlpp):
        found = [
            fedlpp("evaluate", played.package(0), "--base", played.base, "--device", "cpu", "--data", *data)
            for data in (
                [rows],
                ["hf://datasets/acme/rows/test.jsonl"],
                ["hf://datasets/acme/rows", "--split", "test"],
                ["hf://datasets/acme/rows@main", "--split", "test[:100%]"],
            )
        ]
        assert all(one == found[0] for one in found)
        assert found[0]["n_examples"] == 8
        train = ("evaluate", played.package(0), "--base", played.base, "--data", "hf://datasets/acme/rows")
        assert fedlpp(*train)["data"] == sha256_of_rows(fedlpp, played, rows.with_name("train.jsonl"))

    def test_a_data_set_is_that_of_its_commit_when_the_hub_is_away_too(self, monkeypatch, api, played, rows, fedlpp):
        def digest(*data):
            return fedlpp("evaluate", played.package(0), "--base", played.base, "--device", "cpu", "--data", *data)[
                "data"
            ]

        old = hub_commit(api, "acme/rows", repo_type="dataset")
        before = digest("hf://datasets/acme/rows", "--split", "test")
        write_jsonl(rows, prompt_rows(8, seed=7))
        api.upload_file(repo_id="acme/rows", repo_type="dataset", path_or_fileobj=rows, path_in_repo="test.jsonl")
        assert digest("hf://datasets/acme/rows", "--split", "test") == digest(rows) != before
        use_endpoint(monkeypatch, "http://127.0.0.1:9")
        assert digest(f"hf://datasets/acme/rows@{old}", "--split", "test") == before

    def test_a_report_goes_to_the_hub(self, hub, played, rows, fedlpp):
        report = "hf://acme/run/report.json"
        data = ("--base", played.base, "--device", "cpu", "--data", rows)
        made = fedlpp("evaluate", played.package(0), *data, "--out", report)
        assert made["path"] == f"hf://acme/run@{hub.commits('acme/run')[0][0]}/report.json"
        assert fedlpp("inspect", report)["kind"] == "report"

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (["hf://datasets/acme/rows", "--split", "nope"], "Unknown split"),
            (["hf://datasets/acme/rows/nope.jsonl"], "no such file"),
            (["hf://acme/run"], "a model repository holds no data set"),
            (["hf://datasets/acme/empty"], "datasets cannot load it"),
            (["hf://datasets/acme/broken"], "datasets cannot load it"),
        ],
    )
    def test_data_that_cannot_be_read_is_named(self, api, played, rows, fails, data, said):
        for name, file in (("empty", b""), ("broken", b'{"text": 1\n')):
            api.create_repo(f"acme/{name}", repo_type="dataset")
            options = {"repo_id": f"acme/{name}", "repo_type": "dataset", "path_in_repo": "train.jsonl"}
            api.upload_file(path_or_fileobj=file, **options)
        code, error = fails("evaluate", played.package(0), "--base", played.base, "--data", *data)
        assert (code, error["code"]) == (3, "input")
        assert said in error["message"]


class TestSecrets:
    @pytest.mark.parametrize(("kind", "name"), [("peft", "adapter_model.safetensors"), ("merged", "model.safetensors")])
    def test_an_export_goes_to_a_private_repository_only(self, hub, api, played, fedlpp, fails, kind, name):
        api.create_repo("acme/open")
        args = ("export", played.master(1), "--format", kind, "--base", played.base, "--out")
        code, error = fails(*args, "hf://acme/open/adapter")
        assert (code, error["code"]) == (7, "secrecy")
        assert len(hub.commits("acme/open")) == 1
        made = fedlpp(*args, "hf://acme/closed/adapter")
        assert hub.repo("acme/closed").private
        assert made["path"] == f"hf://acme/closed@{hub.commits('acme/closed')[0][0]}/adapter"
        assert hub.file("acme/closed", "main", f"adapter/{name}")

    def test_an_update_is_refused_for_a_public_repository_before_anything_is_read(self, hub, api, played, fails):
        api.create_repo("acme/open")
        args = ("--client", "a", "--data", "nowhere.jsonl", "--out", "hf://acme/open/a.safetensors")
        assert fails("client-train", "nowhere", *args)[0] == 7

    def test_a_master_is_refused_before_anything_is_asked(self, hub, played, fails):
        out = ("--out", "hf://acme/new/master.safetensors")
        commands = (
            ("init", "--base", played.base),
            ("import", played.folder, "--base", played.base),
            ("aggregate", played.master(0), *played.updates(0), "--package", played.package(0)),
        )
        for command in commands:
            assert fails(*command, *out)[0] == 7
        assert hub.requests == []

    def test_a_master_is_no_proxy_to_send(self, hub, played, fails):
        assert fails("pack", played.master(0), *RECIPE, "--out", PACKAGE)[0] == 7
        assert hub.content.repos == {}


class TestFailures:
    def test_an_update_that_is_too_large_is_not_fetched(self, api, shared, played, fedlpp, fails, tmp_path):
        (tmp_path / "z").write_bytes(bytes(4 * 2**20))
        name = "round-0000/updates/z.safetensors"
        api.upload_file(repo_id="acme/run", path_or_fileobj=tmp_path / "z", path_in_repo=name)
        updates = [f"{RUN}/round-0000/updates/{one}.safetensors" for one in "abz"]
        call = ("aggregate", played.master(0), *updates, "--package", PACKAGE, "--out", tmp_path / "next")
        code, error = fails(*call)
        assert (code, error["code"]) == (4, "artifact-size")
        assert error["message"].startswith(f"{RUN}/{name}: {4 * 2**20} bytes")
        result = fedlpp(*call, "--min-clients", 2)
        assert [(one["path"], one["code"]) for one in result["rejected"]] == [(f"{RUN}/{name}", "artifact-size")]
        assert RUN not in (tmp_path / "next.report.json").read_text()
        assert list(tmp_path.rglob("a.safetensors")) != []
        assert list(tmp_path.rglob("z.safetensors*")) == []
        for folder in (RUN, f"{RUN}/round-0000/updates"):
            assert fails(*call[:2], folder, *call[5:], "--force")[:1] == (3,)

    @pytest.mark.parametrize(
        ("args", "code", "name", "said"),
        [
            (["inspect", "hf://acme/nothing"], 9, "hub", "no such repository, or no access to it"),
            (["inspect", f"{RUN}@nowhere/x"], 9, "hub", "no revision 'nowhere'"),
            (["verify", PACKAGE, f"{RUN}/nowhere"], 3, "input", "no such file or folder"),
            (["status", f"{RUN}/round-0000"], 3, "input", "no round-0000 in it"),
            (["log", f"{RUN}/round-0000/updates/a.safetensors"], 3, "input", "no such run folder"),
            (["inspect", "hf://run"], 2, "usage", "Repository id must be"),
            (["inspect", "hf://spaces/acme/run"], 2, "usage", "model or data set repository"),
            (["pack", *RECIPE, "PROXY", "--out", PACKAGE], 8, "output-exists", "exists"),
            (["pack", *RECIPE, "PROXY", "--out", RUN], 2, "usage", "name a path"),
            (["pack", *RECIPE, "PROXY", "--out", f"{RUN}@{'0' * 40}/x"], 2, "usage", "no commit"),
            (["pack", *RECIPE, "PROXY", "--out", "hf://guest/run/x"], 9, "hub", "answers 403"),
        ],
    )
    def test_each_is_one_line_and_one_code(self, hub, played, shared, fails, args, code, name, said):
        hub.content.create("model", "guest/run", private=False, author="guest")
        found, error = fails(*(str(played.proxy(0)) if arg == "PROXY" else arg for arg in args))
        assert (found, error["code"]) == (code, name)
        assert said in error["message"]
        assert hub.commits("acme/run")[0][0] == shared

    def test_a_stranger_is_told_how_to_come_in(self, monkeypatch, shared, fails):
        for token in (None, "hf_guest", "hf_wrong"):
            use_token(monkeypatch, token)
            code, error = fails("inspect", PACKAGE)
            assert (code, error["hint"]) == (9, "hf auth login, or HF_TOKEN")

    def test_without_a_hub_what_was_fetched_is_found_by_its_commit(self, monkeypatch, played, shared, fedlpp, fails):
        pinned = f"{RUN}@{shared}/round-0000/package"
        seen = fedlpp("inspect", pinned)
        use_endpoint(monkeypatch, "http://127.0.0.1:9")
        assert fails("inspect", PACKAGE)[1]["message"].endswith("cannot be reached ([Errno 111] Connection refused)")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fedlpp("inspect", pinned) == seen
        code, error = fails("inspect", PACKAGE)
        assert (code, error["hint"]) == (
            9,
            f"unset HF_HUB_OFFLINE, or name the commit of what was fetched before: {RUN}@COMMIT/round-0000/package",
        )

    def test_an_upload_that_fails_says_where_the_update_is(self, hub, played, shared, runner):
        hub.fail_next(1, 500, path_contains="/commit/")
        args = ["client-train", PACKAGE, "--client", "a", "--data", played.data("a"), "--base", played.base]
        done = runner.invoke(app, [*map(str, args), "--out", "hf://acme/new/a.safetensors"])
        assert (done.exit_code, done.stdout) == (9, "")
        said, hint = done.stderr.splitlines()
        assert said == "error: hf://acme/new/a.safetensors: the Hub answers 500 (Injected fault)"
        kept = Path(hint.removeprefix("  hint: what was made is kept: "))
        assert kept.read_bytes() == played.update(0, "a").read_bytes()

    def test_the_environment_is_respected_from_the_start(self, hub, shared, tmp_path):
        env = hub.environ(tmp_path / "home", token="hf_owner") | {"FEDLPP_CACHE": str(tmp_path / "cache")}
        done = child(env | {"HF_HUB_OFFLINE": "1"}, "inspect", PACKAGE)
        assert (done.returncode, done.stdout) == (9, "")
        assert done.stderr.startswith(f"error: {PACKAGE}: offline mode is on (HF_HUB_OFFLINE)\n  hint: unset")
        done = child(env, "inspect", PACKAGE, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["data"]["kind"] == "package"


def sha256_of_rows(fedlpp, played, file):
    return fedlpp("evaluate", played.package(0), "--base", played.base, "--data", file)["data"]
