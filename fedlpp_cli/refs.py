"""References to inputs and outputs: a path, or a place on the Hugging Face Hub.

    path                                    anything without "://"
    hf://owner/repo[@revision][/path]       a model repository
    hf://datasets/owner/repo[@revision][/path]

The grammar of `hf://` is huggingface_hub's own (`parse_hf_uri`), narrowed: models and data sets only, no `..`,
no hidden path component. A revision is a branch, a tag, `refs/pr/N` or a commit; "/" in a branch's name is written
`%2F`. Nothing here touches the network or the disk.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fedlpp_cli.errors import UsageError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SLASHED_REVISION = re.compile(r"refs/(pr/\d+|convert/[\w.-]+)")


@dataclass(frozen=True, slots=True)
class HubRef:
    """A repository on the Hub, or a file or folder in it. `path` is "" for the root."""

    repo_type: Literal["model", "dataset"]
    repo_id: str
    revision: str | None
    path: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which can never mean anything else later."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def name(self) -> str:
        """The last path component, or the repository's name."""
        return (self.path or self.repo_id).rsplit("/", 1)[-1]

    def at(self, revision: str) -> "HubRef":
        """The same place at another revision."""
        return replace(self, revision=revision)

    def __truediv__(self, name: str) -> "HubRef":
        return replace(self, path=f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        revision = self.revision or ""
        if not _SLASHED_REVISION.fullmatch(revision):
            revision = quote(revision, safe="")
        revision = f"@{revision}" if revision else ""
        return f"hf://{prefix}{self.repo_id}{revision}{'/' if self.path else ''}{self.path}"


Ref = Path | HubRef


def parse_ref(text: str | Path | HubRef) -> Ref:
    """The reference that `text` writes.

    Raises:
        UsageError: an address that is not of the grammar above.
    """
    if isinstance(text, Path | HubRef):
        return text
    if not text or "\0" in text:
        raise UsageError(f"{text!r}: not a path or hf:// address")
    if "://" not in text:
        return Path(text)
    if not text.startswith("hf://"):
        raise UsageError(f"{text!r}: neither a path nor hf://owner/repo[@revision][/path]")
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(text)
    except HfUriError as error:
        raise UsageError(f"{text!r}: {error}", hint="hf://owner/repo[@revision][/path]") from None
    parts = uri.path_in_repo.split("/") if uri.path_in_repo else []
    if uri.type not in ("model", "dataset") or any(part.startswith(".") for part in parts):
        raise UsageError(
            f"{text!r}: a model or data set repository and a plain path in it are needed",
            hint="hf://owner/repo[@revision][/path] or hf://datasets/owner/repo[@revision][/path]",
        )
    repo_type: Literal["model", "dataset"] = "dataset" if uri.type == "dataset" else "model"
    return HubRef(repo_type, uri.id, uri.revision, "/".join(parts))
