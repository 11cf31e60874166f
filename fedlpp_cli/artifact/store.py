"""The one module that knows the network: fetch from, and publish to, the Hugging Face Hub.

Reading resolves the revision to a commit first and downloads by that commit, so that a branch that moves meanwhile
changes nothing. Writing is one commit. Local paths pass through untouched. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and
`HF_HUB_OFFLINE` mean what they mean to huggingface_hub.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlpp_cli.artifact.folder import MANIFEST
from fedlpp_cli.artifact.whole import check_absent
from fedlpp_cli.errors import HubError, InputError, OutputExistsError, SecrecyError, UsageError
from fedlpp_cli.refs import HubRef, Ref

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MODEL_PATTERNS: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


@dataclass(slots=True)
class Destination:
    """Where a step writes: `path` is local; `written` is what to tell the user, set when the output is in place."""

    path: Path
    written: Ref


def fetch(ref: Ref, *, skip: Sequence[str] = ()) -> Path:
    """A local file or folder with what `ref` names.

    Args:
        ref: a path, which is returned as it is, or a place on the Hub.
        skip: glob patterns of files that are not needed.

    Raises:
        InputError: the repository has nothing there.
        HubError: no network, no access, no such repository or revision.
    """
    if isinstance(ref, Path):
        return ref
    from huggingface_hub import snapshot_download

    pinned = pin(ref)
    folder = cache_folder() / f"{ref.repo_type}s--{ref.repo_id.replace('/', '--')}" / str(pinned.revision)
    found = folder / ref.path if ref.path else folder
    if not (_is_offline() and found.exists()):
        with _hub_errors(ref):
            snapshot_download(
                ref.repo_id,
                repo_type=ref.repo_type,
                revision=pinned.revision,
                local_dir=folder,
                allow_patterns=[ref.path, f"{ref.path}/*"] if ref.path else None,
                ignore_patterns=list(skip) or None,
            )
    if not found.exists():
        raise InputError(f"{pinned}: the repository has no such file or folder")
    return found


def fetch_model(ref: Ref) -> tuple[Path, HubRef | None]:
    """A local transformers model folder, and the commit it was taken from, None for a path.

    Models go into huggingface_hub's own cache, where other tools find them too.

    Raises:
        HubError: no network, no access, no such repository or revision.
    """
    if isinstance(ref, Path):
        return ref, None
    from huggingface_hub import snapshot_download

    prefix = f"{ref.path}/" if ref.path else ""
    with _hub_errors(ref):
        pinned = ref if _is_offline() else pin(ref)
        snapshot = snapshot_download(
            ref.repo_id,
            repo_type=ref.repo_type,
            revision=pinned.revision,
            allow_patterns=[prefix + pattern for pattern in _MODEL_PATTERNS],
        )
    return Path(snapshot) / ref.path, ref.at(Path(snapshot).name)


def pin(ref: HubRef) -> HubRef:
    """The same place at the commit that its revision means now.

    Raises:
        HubError: as `fetch`.
    """
    if ref.is_pinned:
        return ref
    with _hub_errors(ref):
        info = _api().repo_info(ref.repo_id, repo_type=ref.repo_type, revision=ref.revision)
    if not info.sha:
        raise HubError(f"{ref}: the repository is empty")
    return ref.at(info.sha)


@contextlib.contextmanager
def destination(ref: Ref, *, message: str, force: bool = False, secret: bool = False) -> Iterator[Destination]:
    """Yield a local place to write; what is written there ends up where `ref` says.

    Args:
        ref: where the output goes. On the Hub it is one commit, in a new repository a private one.
        message: the commit's title.
        force: the output may exist already.
        secret: the output may never be on the Hub: a master.

    Raises:
        OutputExistsError: it exists and `force` is not set.
        SecrecyError: a secret for the Hub.
        HubError: no network, no access.
        UsageError: a Hub address without a path, or at a commit.
    """
    if isinstance(ref, Path):
        check_absent(ref, force=force)
        yield Destination(ref, ref)
        return
    if secret:
        raise SecrecyError(f"{ref}: masters hold the owner's full-precision adapter and are not written to the Hub")
    if not ref.path or ref.is_pinned:
        raise UsageError(f"{ref}: to write, name a path in the repository and no commit")
    if not force:
        _check_absent_on_hub(ref)
    # A folder of mode 0700: nobody else reads a client's update before it is where it belongs.
    with tempfile.TemporaryDirectory(prefix="fedlpp-") as folder:
        place = Destination(Path(folder) / ref.name, ref)
        yield place
        place.written = _publish(place.path, ref, message=message)


def refuse_public(ref: Ref, *, what: str) -> None:
    """Refuse to put something into a repository that the whole world can read.

    Raises:
        SecrecyError: the repository exists and is public.
        HubError: as `fetch`.
    """
    if isinstance(ref, Path):
        return
    with _hub_errors(ref):
        api = _api()
        if api.repo_exists(ref.repo_id, repo_type=ref.repo_type):
            private = api.repo_info(ref.repo_id, repo_type=ref.repo_type).private
            if not private:
                raise SecrecyError(f"{ref}: the repository is public, and {what}", hint="use a private repository")


def cache_folder() -> Path:
    """Where fetched artifacts are kept: `$FEDLPP_CACHE`, else `fedlpp` in the user's cache folder."""
    given = os.environ.get("FEDLPP_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlpp"


def _publish(local: Path, ref: HubRef, *, message: str) -> HubRef:
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    operations = [
        CommitOperationAdd(
            path_in_repo=ref.path if path == local else f"{ref.path}/{path.relative_to(local).as_posix()}",
            path_or_fileobj=path,
        )
        for path in files
    ]
    with _hub_errors(ref):
        api = _api()
        if not api.repo_exists(ref.repo_id, repo_type=ref.repo_type):
            api.create_repo(ref.repo_id, repo_type=ref.repo_type, private=True, exist_ok=True)
        commit = api.create_commit(
            ref.repo_id, operations, commit_message=message, repo_type=ref.repo_type, revision=ref.revision
        )
    return ref.at(commit.oid)


def _check_absent_on_hub(ref: HubRef) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    with _hub_errors(ref), contextlib.suppress(RepositoryNotFoundError, RevisionNotFoundError):
        paths = [ref.path, f"{ref.path}/{MANIFEST}"]
        found = _api().get_paths_info(ref.repo_id, paths, repo_type=ref.repo_type, revision=ref.revision)
        if found:
            raise OutputExistsError(f"{ref} exists; artifacts are not written over", hint="another --out, or --force")


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def _hub_errors(ref: HubRef) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line about `ref`. ConnectionError is what its Xet client raises."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        hint = f"what was fetched before is found by its commit: {replace(ref, revision='<commit>')}"
        raise HubError(f"{ref}: offline mode is on (HF_HUB_OFFLINE)", hint=hint) from None
    except errors.RepositoryNotFoundError:
        raise HubError(f"{ref}: no such repository, or no access to it", hint="hf auth login, or HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{ref}: the repository has no revision {ref.revision!r}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "hf auth login, or HF_TOKEN" if status in {401, 403} else None
        raise HubError(f"{ref}: the Hub answers {status} ({_first_line(error)})", hint=advice) from None
    except (errors.LocalEntryNotFoundError, ConnectionError, OSError) as error:
        raise HubError(f"{ref}: the Hub cannot be reached ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
