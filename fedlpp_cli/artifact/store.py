"""The one module that knows the network: fetch from, and publish to, the Hugging Face Hub.

Reading resolves the revision to a commit first and downloads by that commit, so that a branch that moves meanwhile
changes nothing. Writing is one commit, on top of the commit that was looked at. Local paths pass through untouched.
`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub.
"""

import contextlib
import fcntl
import glob
import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from fedlpp_cli.artifact.hub_errors import LOGIN, explain
from fedlpp_cli.artifact.signatures import SUFFIX, signatures_beside
from fedlpp_cli.artifact.whole import check_absent
from fedlpp_cli.errors import (
    FedlppError,
    HubError,
    InputError,
    OutputExistsError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.refs import HubRef, Ref

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MODEL_PATTERNS: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_ATTRIBUTES: Final = ".gitattributes"  # the Hub puts one into every repository
_one_at_a_time: Final = threading.RLock()  # what keeps huggingface_hub quiet is set for the whole process


@dataclass(slots=True)
class Destination:
    """Where a step writes: `path` is local; `written` is what to tell the user, set when the output is in place."""

    path: Path
    written: Ref


def fetch(ref: Ref, *, skip: Sequence[str] = ()) -> Path:
    """A local file or folder with what `ref` names, whole; signatures that lie beside a file come with it.

    Args:
        ref: a path, which is returned as it is, or a place on the Hub.
        skip: glob patterns of files that are not needed.

    Raises:
        InputError: the repository has nothing there.
        HubError: no network, no access, no such repository or revision.
        OutputError: no space, no permission in the cache folder.
    """
    if isinstance(ref, Path):
        return ref
    from huggingface_hub import snapshot_download

    pinned = pin(ref)
    folder = cache_folder() / f"{ref.repo_type}s--{ref.repo_id.replace('/', '--')}" / str(pinned.revision)
    named = glob.escape(ref.path)
    with hub_client(pinned), _alone_in(folder):
        # This also tells whether a folder that is there already is complete, offline too.
        snapshot_download(
            ref.repo_id,
            repo_type=ref.repo_type,
            revision=pinned.revision,
            local_dir=folder,
            allow_patterns=[named, f"{named}{SUFFIX}", f"{named}/*"] if ref.path else None,
            ignore_patterns=[_ATTRIBUTES, *skip],
        )
    found = folder / ref.path if ref.path else folder
    if not found.exists():
        raise InputError(f"{pinned}: the repository has no such file or folder")
    return found


def fetch_model(ref: Ref) -> tuple[Path, HubRef | None]:
    """A local transformers model folder, and the commit it was taken from, None for a path.

    Models go into huggingface_hub's own cache, where other tools find them too. Raises as `fetch`.
    """
    if isinstance(ref, Path):
        return ref, None
    from huggingface_hub import constants, snapshot_download

    prefix = f"{glob.escape(ref.path)}/" if ref.path else ""
    with hub_client(ref):
        pinned = ref if constants.HF_HUB_OFFLINE else pin(ref)
        snapshot = snapshot_download(
            ref.repo_id,
            repo_type=ref.repo_type,
            revision=pinned.revision,
            allow_patterns=[prefix + pattern for pattern in _MODEL_PATTERNS],
            ignore_patterns=[f"{prefix}*/*"],  # other models and other formats
        )
    folder, found = Path(snapshot) / ref.path, ref.at(Path(snapshot).name)
    if not folder.is_dir():
        raise InputError(f"{found}: the repository has no model there")
    return folder, found


def pin(ref: HubRef) -> HubRef:
    """The same place at the commit that its revision means now. Raises as `fetch`."""
    if ref.is_pinned:
        return ref
    with hub_client(ref) as api:
        info = api.repo_info(ref.repo_id, repo_type=ref.repo_type, revision=ref.revision)
    if not info.sha:
        raise HubError(f"{ref}: the repository is empty")
    return ref.at(info.sha)


@contextlib.contextmanager
def destination(
    ref: Ref, *, message: str, force: bool = False, secret: bool = False, confidential: str | None = None
) -> Iterator[Destination]:
    """Yield a local place to write; what is written there ends up where `ref` says.

    Where nothing is written, nothing is sent. What cannot be sent is kept in the cache folder; the error says where.

    Args:
        ref: where the output goes. On the Hub it is one commit, in a new repository a private one.
        message: the commit's title.
        force: the output may exist already, and is replaced.
        secret: the output may never be on the Hub: a master, a client's state.
        confidential: why the output may not be in a repository that the whole world can read; None where it may.

    Raises:
        OutputExistsError: it exists and `force` is not set.
        SecrecyError: a secret for the Hub, or something confidential for a public repository.
        HubError: no network, no access; as far as can be known, before the body runs.
        UsageError: a Hub address without a path, or at a commit.
    """
    if isinstance(ref, Path):
        check_absent(ref, force=force)
        yield Destination(ref, ref)
        return
    if secret:
        why = "masters hold the owner's full-precision adapter, states what a client holds back"
        raise SecrecyError(f"{ref}: {why}; they are not written to the Hub")
    if not ref.path or ref.is_pinned:
        raise UsageError(f"{ref}: to write, name a path in the repository and no commit")
    _check_writable(ref, force=force, confidential=confidential)
    # A folder of mode 0700: nobody else reads a client's update before it is where it belongs.
    with tempfile.TemporaryDirectory(prefix="fedlpp-") as folder:
        place = Destination(Path(folder) / ref.name, ref)
        yield place
        if not place.path.exists():
            return
        try:
            place.written = _publish(place.path, ref, message=message, force=force, confidential=confidential)
        except FedlppError as error:
            with contextlib.suppress(OSError):
                kept = Path(tempfile.mkdtemp(dir=_made(cache_folder() / "unsent"))) / place.path.name
                for made in place.path.parent.iterdir():  # signatures too
                    shutil.move(made, kept.parent)
                error.hint = f"{error.hint + '; ' if error.hint else ''}what was made is kept: {kept}"
            raise


def exists(ref: Ref) -> bool:
    """Whether there is a file or a folder at `ref`. Raises as `fetch`."""
    if isinstance(ref, Path):
        return ref.exists()
    with hub_client(ref) as api:
        if not api.repo_exists(ref.repo_id, repo_type=ref.repo_type):
            return False
        return bool(_look(api, ref, force=True)[1] - {f"{ref.path}{SUFFIX}"})


def cache_folder() -> Path:
    """Where fetched artifacts are kept: `$FEDLPP_CACHE`, else `fedlpp` in the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("FEDLPP_CACHE") or users / "fedlpp")


@contextlib.contextmanager
def hub_client(ref: HubRef) -> Iterator["HfApi"]:
    """The Hub's client, which keeps quiet in the body; what it raises becomes one line about `ref`."""
    from huggingface_hub import HfApi, errors

    # Under every error of huggingface_hub's HTTP library, which is httpx in some versions and httpx2 in others.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        with _one_at_a_time, _quiet_hub():
            yield HfApi()
    except (http_error, OSError, UnicodeError) as error:
        raise explain(error, ref, cache=cache_folder()) from None


def _check_writable(ref: HubRef, *, force: bool, confidential: str | None) -> None:
    """Refuse before hours of work what the Hub would refuse after them."""
    from huggingface_hub import get_token

    with hub_client(ref) as api:
        if not api.repo_exists(ref.repo_id, repo_type=ref.repo_type):
            if get_token() is None:
                raise HubError(f"{ref}: to write to the Hub, a token is needed", hint=LOGIN)
            if ref.revision not in {None, "main"}:
                raise HubError(f"{ref}: no such repository, and a new one has no revision {ref.revision!r}")
            return
        if not (ref.revision or "").startswith("refs/pr/"):  # whoever may read may write to a pull request
            api.auth_check(ref.repo_id, repo_type=ref.repo_type, write=True)
        _look(api, ref, force=force, confidential=confidential)


def _look(api: "HfApi", ref: HubRef, *, force: bool, confidential: str | None = None) -> tuple[str | None, set[str]]:
    """The commit that the branch is at, and the files that lie where `ref` says: none, without `force`.

    Signatures beside a file are part of what lies there.
    """
    info = api.repo_info(ref.repo_id, repo_type=ref.repo_type, revision=ref.revision)
    if confidential is not None and not info.private:
        raise SecrecyError(f"{ref}: the repository is public, and {confidential}", hint="use a private repository")
    head = info.sha
    names = api.list_repo_files(ref.repo_id, repo_type=ref.repo_type, revision=head)
    signatures = f"{ref.path}{SUFFIX}"
    there = {name for name in names if f"{name}/".startswith(f"{ref.path}/") or name == signatures}
    if there and not force:
        raise OutputExistsError(f"{ref} exists; artifacts are not written over", hint="another --out, or --force")
    return head, there


def _publish(local: Path, ref: HubRef, *, message: str, force: bool, confidential: str | None) -> HubRef:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    names = _names_of(local, ref)
    with hub_client(ref) as api, warnings.catch_warnings(action="ignore"):
        if not api.repo_exists(ref.repo_id, repo_type=ref.repo_type):
            api.create_repo(ref.repo_id, repo_type=ref.repo_type, private=True, exist_ok=True)
        for _ in range(10):  # other people's commits may overtake ours
            head, there = _look(api, ref, force=force, confidential=confidential)
            if local.is_file() and there - {ref.path, f"{ref.path}{SUFFIX}"}:
                raise OutputExistsError(f"{ref} is a folder, and not replaced by a file", hint="another --out")
            operations: list[CommitOperationAdd | CommitOperationDelete]
            operations = [CommitOperationDelete(path_in_repo=name) for name in sorted(there - set(names))]
            operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in names.items()]
            try:
                made = api.create_commit(
                    ref.repo_id,
                    operations,
                    commit_message=message,
                    repo_type=ref.repo_type,
                    revision=ref.revision,
                    parent_commit=head,
                )
                return ref.at(made.oid)
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
    raise HubError(f"{ref}: others keep writing to the repository")


def _names_of(local: Path, ref: HubRef) -> dict[str, Path]:
    """Path in the repository to file: everything in a folder; a file, and signatures beside it."""
    if local.is_dir():
        files = sorted(path for path in local.rglob("*") if path.is_file())
        return {(PurePosixPath(ref.path) / path.relative_to(local)).as_posix(): path for path in files}
    beside = signatures_beside(local)
    return {ref.path: local, **({f"{ref.path}{SUFFIX}": beside} if beside.exists() else {})}


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: huggingface_hub removes a file that it is about to fetch, from under another's eyes."""
    with (_made(folder.parent) / f".{folder.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(inside_cache: Path) -> Path:
    """A folder in the cache folder, which only its owner reads: clients' updates lie there."""
    cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    inside_cache.mkdir(exist_ok=True)
    return inside_cache


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """No bars and no notes of huggingface_hub, unless its own variables ask for them."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, has_bars = logger.level, constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    if level == logging.WARNING:  # as huggingface_hub sets it
        logger.setLevel(logging.ERROR)
    if has_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if has_bars:
            enable_progress_bars()
