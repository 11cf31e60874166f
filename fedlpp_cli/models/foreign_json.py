"""JSON from another party."""

import json
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.errors import ArtifactError

_MAX_BYTES: Final = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a plain file.

    Raises:
        ArtifactError: too large, not JSON, or not an object.
    """
    data = read_regular(path, _MAX_BYTES + 1, follow=False)
    if len(data) > _MAX_BYTES:
        raise ArtifactError(f"{path}: too large")
    return parse_json(data, source=str(path))


def parse_json(data: bytes, *, source: str) -> dict[str, Any]:
    """A JSON object from another party.

    Raises:
        ArtifactError: not JSON, or not an object.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{source}: not a JSON object")
    return value
