"""Files as a Hub keeps them: git blob ids, LFS pointers, tree listings, and which file goes to LFS."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
