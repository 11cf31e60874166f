"""Fetch one file of a stranger, which may be only so large: its size is known before anything of it is."""

from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.errors import InputError, OversizeError
from fedlpp_cli.refs import HubRef, Ref


def fetch_bounded(ref: Ref, max_bytes: int) -> Path:
    """As `store.fetch`; a larger file is not fetched from the Hub, and not to be opened.

    Raises:
        OversizeError: more than `max_bytes`.
        InputError: the repository has nothing there, or a folder.
        HubError, OutputError: as `store.fetch`.
    """
    place = ref
    if isinstance(ref, HubRef):
        place = store.pin(ref)
        _check_size(ref, _bytes_on_hub(place), max_bytes)
    path = store.fetch(place)
    if path.is_file():
        _check_size(ref, path.stat().st_size, max_bytes)
    return path


def _check_size(ref: Ref, n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise OversizeError(f"{ref}: {n_bytes} bytes, at most {max_bytes} are possible here")


def _bytes_on_hub(pinned: HubRef) -> int:
    """How large the Hub says that the file is; 0 where there is none, and offline, where nothing is fetched."""
    from huggingface_hub import constants
    from huggingface_hub.hf_api import RepoFolder

    if constants.HF_HUB_OFFLINE:
        return 0
    if not pinned.path:
        raise InputError(f"{pinned}: a repository, one file in it is needed")
    with store.hub_client(pinned) as api:
        found = api.get_paths_info(pinned.repo_id, pinned.path, repo_type=pinned.repo_type, revision=pinned.revision)
    if any(isinstance(one, RepoFolder) for one in found):
        raise InputError(f"{pinned}: a folder, one file is needed")
    return sum(one.size for one in found if not isinstance(one, RepoFolder))
