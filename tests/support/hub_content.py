"""What a Hub keeps, as plain data with no HTTP: repositories, refs, commits, LFS objects.

Modelled: model and dataset repositories named ``owner/name``; branches, tags and ``refs/pr/N``; linear
history; the ``.gitattributes`` a new repository is born with, whose LFS patterns decide how a file is stored;
git blob ids, LFS pointers, and the operations of the ndjson commit call.

Not modelled, on purpose: git objects beyond their ids (no packs, no clone), merges, diffs, ``.gitignore``,
discussions, Spaces, Xet storage, quotas. Everything lives in memory and the same actions give the same shas.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .hub_files import GITATTRIBUTES, File, Files, HubError, sha1


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
    """One repository: its refs, its commits by oid (oldest first), and the LFS objects uploaded to it.

    `readers`: who may read a private one besides its owner, as members of an organization may.
    """

    id: str
    type: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)

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
