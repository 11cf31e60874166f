"""What a Hub keeps, as plain data with no HTTP: repositories, refs, commits, files, LFS objects.

Modelled: model and dataset repositories named ``owner/name``; branches, tags and ``refs/pr/N``; linear
history; the ``.gitattributes`` a new repository is born with, whose LFS patterns decide how a file is stored;
git blob ids, LFS pointers, and the operations of the ndjson commit call.

Not modelled, on purpose: git objects beyond their ids (no packs, no clone), merges, diffs, ``.gitignore``,
discussions, Spaces, Xet storage, quotas. Everything lives in memory and the same actions give the same shas.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

LFS_SUFFIXES = re.findall(
    r"\w+",
    "7z arrow bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl"
    " pt pth rar safetensors tar tflite tgz wasm xz zip zst",
)
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
REGULAR_LIMIT = 10 * 1024 * 1024  # bytes; a larger file goes to LFS whatever its name
LFS_OID = re.compile(r"[0-9a-f]{64}")


class HubError(Exception):
    """A call that the Hub refuses, by the protocol's name for the reason.

    RepoNotFound, RevisionNotFound and EntryNotFound are the Hub's own error codes, the others HTTP's reasons;
    `commit` is the revision that was looked at, where one was found.
    """

    def __init__(self, code: str, message: str, commit: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.commit = commit


def sha1(*parts: str) -> str:
    """A 40-hex id of some strings."""
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class File:
    """One version of a file, stored as a git blob or as an LFS object behind a pointer."""

    content: bytes
    lfs: bool = False

    @property
    def size(self) -> int:
        """Bytes of the content itself, not of a pointer to it."""
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        """The id of the content as an LFS object."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def blob(self) -> bytes:
        """What git itself would keep: the content, or the LFS pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return pointer.encode() if self.lfs else self.content

    @cached_property
    def oid(self) -> str:
        """The git blob id."""
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    @property
    def etag(self) -> str:
        """What names the content to a cache: the sha256 of an LFS object, the git blob id otherwise."""
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        """The file as a line of a tree listing."""
        line: dict[str, Any] = {"type": "file", "oid": self.oid, "size": self.size, "path": path}
        if self.lfs:
            line["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.blob)}
        return line


Files = Mapping[str, File]


def parents(path: str) -> list[str]:
    """The folders that a file is in, outermost first."""
    return [path[:at] for at, letter in enumerate(path) if letter == "/"]


def folder_entry(files: Files, path: str) -> dict[str, Any]:
    """A folder as a line of a tree listing."""
    inside = (f"{name}={file.oid}" for name, file in sorted(files.items()) if name.startswith(f"{path}/"))
    return {"type": "directory", "oid": sha1("tree", *inside), "size": 0, "path": path}


def tree(files: Files, under: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The listing of a folder ("" for the root), folders first; EntryNotFound where there is none."""
    prefix = f"{under}/" if under else ""
    inside = {path: file for path, file in files.items() if path.startswith(prefix)}
    if under and not inside:
        raise HubError("EntryNotFound", f"{under} does not exist")
    folders = sorted({folder for path in inside for folder in parents(path) if folder.startswith(prefix)})
    lines = [folder_entry(inside, folder) for folder in folders]
    lines += [file.entry(path) for path, file in sorted(inside.items())]
    return [line for line in lines if recursive or "/" not in line["path"][len(prefix) :]]


def paths_info(files: Files, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Tree lines of the named files and folders; a name that is neither is passed over."""
    named = [path.rstrip("/") for path in paths]
    folders = {path for path in named if any(name.startswith(f"{path}/") for name in files)}
    return [
        files[path].entry(path) if path in files else folder_entry(files, path)
        for path in named
        if path in files or path in folders
    ]


def wants_lfs(files: Files, path: str, size: int, sample: bytes = b"") -> bool:
    """Whether a new file is stored with LFS: by `.gitattributes`, by size, or for looking binary."""
    rules = files[".gitattributes"].content.decode().splitlines() if ".gitattributes" in files else []
    patterns = [rule.split()[0] for rule in rules if "filter=lfs" in rule.split()[1:]]
    name = path.rpartition("/")[2]
    named = any(fnmatch(path if "/" in pattern else name, pattern) for pattern in patterns)
    return named or size > REGULAR_LIMIT or b"\0" in sample


@dataclass(frozen=True)
class Commit:
    """One commit: its 40-hex oid, what was said, and every file as it then stood."""

    oid: str
    title: str
    description: str
    author: str
    parent: str | None
    files: Files
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    def info(self) -> dict[str, Any]:
        """The commit as a line of a commit list."""
        said = {"title": self.title, "message": self.description}
        return {"id": self.oid, "date": self.date, "authors": [{"user": self.author}], **said}


@dataclass
class Repo:
    """One repository: its refs, its commits by oid (oldest first), and the LFS objects uploaded to it."""

    id: str
    type: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The namespace the repository is in."""
        return self.id.partition("/")[0]

    def full_ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or `refs/...`, or None."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, `refs/...` or 40-hex oid stands for."""
        ref = self.full_ref(revision)
        oid = self.refs[ref] if ref else revision
        if oid not in self.history:
            raise HubError("RevisionNotFound", f"Invalid rev id: {revision}")
        return self.history[oid]

    def file(self, revision: str, path: str) -> tuple[Commit, File]:
        """A file and the commit it was found at."""
        commit = self.resolve(revision)
        if path not in commit.files:
            raise HubError("EntryNotFound", f"Entry not found: {path}", commit.oid)
        return commit, commit.files[path]

    def log(self, revision: str) -> list[Commit]:
        """The commits of a revision, last one first."""
        found: list[Commit] = [self.resolve(revision)]
        while (parent := found[-1].parent) is not None:
            found.append(self.history[parent])
        return found

    def add_ref(self, ref: str, revision: str) -> None:
        """Point a new `refs/heads/...` or `refs/tags/...` at a revision."""
        if ref in self.refs:
            raise HubError("Conflict", f"Reference {ref} already exists")
        self.refs[ref] = self.resolve(revision).oid

    def info(self, revision: str, *, sizes: bool = False) -> dict[str, Any]:
        """The repository as its page describes it at a revision."""
        commit = self.resolve(revision)
        siblings = [
            {"rfilename": path, **({"size": file.size, "blobId": file.oid} if sizes else {})}
            for path, file in sorted(commit.files.items())
        ]
        counts = {"downloads": 0, "likes": 0, "tags": [], "gated": False, "disabled": False}
        state = {"sha": commit.oid, "lastModified": commit.date, "private": self.private, "siblings": siblings}
        return {"_id": sha1(self.type, self.id)[:24], "id": self.id, "author": self.owner, **state, **counts}

    def list_refs(self) -> dict[str, list[dict[str, str]]]:
        """All refs by kind."""
        kinds = {
            "refs/heads/": "branches",
            "refs/convert/": "converts",
            "refs/tags/": "tags",
            "refs/pr/": "pullRequests",
        }
        listed: dict[str, list[dict[str, str]]] = {kind: [] for kind in kinds.values()}
        for ref, oid in self.refs.items():
            prefix = next(prefix for prefix in kinds if ref.startswith(prefix))
            listed[kinds[prefix]].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid})
        return listed

    def target(self, revision: str, *, new_pull_request: bool = False) -> str:
        """The full ref that a commit to a revision moves: its branch, its pull request, or one to open."""
        if new_pull_request:
            return f"refs/pr/{sum(name.startswith('refs/pr/') for name in self.refs) + 1}"
        ref = self.full_ref(revision)
        if ref is None or ref.startswith("refs/tags/"):
            raise HubError("BadRequest", f"Not a branch: {revision}", self.resolve(revision).oid)
        return ref

    def record(self, ref: str, parent: str | None, files: Files, said: tuple[str, str], author: str) -> Commit:
        """Add a commit with these files, and what was said as (title, description), and move the ref to it."""
        listing = (f"{path}={file.oid}" for path, file in sorted(files.items()))
        oid = sha1(self.type, self.id, str(len(self.history)), str(parent), author, *said, *listing)
        self.history[oid] = Commit(oid, *said, author, parent, dict(files))
        self.refs[ref] = oid
        return self.history[oid]

    def commit(self, ref: str, base: str, lines: list[dict[str, Any]], author: str) -> Commit:
        """Carry out an ndjson commit call on top of a revision: a header, then operations; all or none."""
        if not lines or lines[0].get("key") != "header":
            raise HubError("BadRequest", "The first line of a commit must be its header")
        header, parent = lines[0]["value"], self.resolve(base)
        if header.get("parentCommit", parent.oid) != parent.oid:
            message = "A commit has happened since. Please refresh and try again."
            raise HubError("PreconditionFailed", message, parent.oid)
        files = dict(parent.files)
        for line in lines[1:]:
            if line.get("key") not in OPERATIONS:
                raise HubError("BadRequest", f"Unknown commit operation: {line.get('key')}")
            OPERATIONS[line["key"]](self, files, line["value"])
        return self.record(ref, parent.oid, files, (header["summary"], header.get("description", "")), author)


def _put_file(_repo: Repo, files: dict[str, File], value: dict[str, Any]) -> None:
    content = value["content"]
    encoded = value.get("encoding") == "base64"
    files[value["path"]] = File(base64.b64decode(content) if encoded else content.encode())


def _put_lfs_file(repo: Repo, files: dict[str, File], value: dict[str, Any]) -> None:
    content = repo.lfs.get(value["oid"])
    if content is None or value.get("size", len(content)) != len(content):
        raise HubError("BadRequest", f"{value['path']}: no such LFS object was uploaded: {value['oid']}")
    files[value["path"]] = File(content, lfs=True)


def _delete_file(_repo: Repo, files: dict[str, File], value: dict[str, Any]) -> None:
    if files.pop(value["path"], None) is None:
        raise HubError("EntryNotFound", f"A file with this name doesn't exist: {value['path']}")


def _delete_folder(_repo: Repo, files: dict[str, File], value: dict[str, Any]) -> None:
    inside = [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]
    if not inside:
        raise HubError("EntryNotFound", f"A folder with this name doesn't exist: {value['path']}")
    for path in inside:
        del files[path]


OPERATIONS: dict[str, Callable[[Repo, dict[str, File], dict[str, Any]], None]] = {
    "file": _put_file,
    "lfsFile": _put_lfs_file,
    "deletedFile": _delete_file,
    "deletedFolder": _delete_folder,
}


@dataclass
class Content:
    """All repositories of a Hub, by type ("model" or "dataset") and id."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)

    def create(self, repo_type: str, repo_id: str, *, private: bool, author: str) -> Repo:
        """A new repository, whose first commit holds its `.gitattributes`."""
        if (repo_type, repo_id) in self.repos:
            raise HubError("Conflict", f"You already created this {repo_type} repo: {repo_id}")
        repo = self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, private)
        files = {".gitattributes": File(GITATTRIBUTES.encode())}
        repo.record("refs/heads/main", None, files, ("initial commit", ""), author)
        return repo

    def find(self, repo_type: str, repo_id: str) -> Repo:
        """A repository by type and id."""
        if (repo_type, repo_id) not in self.repos:
            raise HubError("RepoNotFound", "Repository not found")
        return self.repos[repo_type, repo_id]
