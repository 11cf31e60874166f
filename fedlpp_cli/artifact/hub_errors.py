"""What huggingface_hub raises, in one line of ours."""

import re
from pathlib import Path
from typing import Final

from fedlpp_cli.errors import FedlppError, HubError, OutputError
from fedlpp_cli.refs import HubRef

LOGIN: Final = "hf auth login, or HF_TOKEN"
_SECRET: Final = re.compile(r"Bearer [^'\"]*|hf_\w+")


def explain(error: Exception, ref: HubRef, *, cache: Path) -> FedlppError:
    """The error to raise instead, about `ref`; `cache` is where downloads go. No token is in it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        fetched = "" if ref.is_pinned else f", or name the commit of what was fetched before: {ref.at('COMMIT')}"
        return HubError(f"{ref}: offline mode is on (HF_HUB_OFFLINE)", hint=f"unset HF_HUB_OFFLINE{fetched}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(f"{ref}: no such repository, or no access to it", hint=LOGIN)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{ref}: the repository has no revision {ref.revision!r}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        said = _first_line(error.server_message or error.response.reason_phrase)
        return HubError(f"{ref}: the Hub answers {status} ({said})", hint=LOGIN if status in {401, 403} else None)
    if isinstance(error, OSError) and error.errno is not None:
        return OutputError(f"{error.filename or cache}: cannot be written ({error.strerror})")
    return HubError(f"{ref}: the Hub cannot be reached ({_first_line(str(error)) or type(error).__name__})")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _SECRET.sub("<token>", lines[0])[:200] if lines else ""
