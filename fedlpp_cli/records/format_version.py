"""Versions of the artifact format: "major.minor"."""

import re

from fedlpp_cli.errors import ArtifactError, FormatVersionError
from fedlpp_cli.version import __version__


def is_newer_minor(found: object, own: str, *, source: str) -> bool:
    """Whether what was found may have fields that are not known here.

    Raises:
        ArtifactError: not a version.
        FormatVersionError: another major version than one's own.
    """
    if not isinstance(found, str) or not re.fullmatch(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", found):
        raise ArtifactError(f"{source}: format is {found!r:.80}, a version like {own!r} is needed")
    (major, minor), (own_major, own_minor) = (map(int, version.split(".")) for version in (found, own))
    if major != own_major:
        raise FormatVersionError(
            f"{source}: artifact format {found}, this fedlpp {__version__} reads {own_major}.x",
            hint="pip install -U fedlpp" if major > own_major else None,
        )
    return minor > own_minor
