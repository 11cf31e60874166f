"""Canonical JSON: one value, one sequence of bytes.

Written: ASCII with escapes, keys sorted, no spaces, no NaN or infinity; floats as Python's `repr` (the shortest
text that reads back to the same double). Read: the same and nothing else, so that what was hashed is what is
used; duplicate keys, other spacing, `1e999` or lone surrogates are refused rather than repaired.
"""

import json
from typing import NoReturn

from fedlpp_cli.errors import ArtifactError


def encode(value: object) -> bytes:
    """Canonical bytes of a JSON value made of dict, list, str, int, float, bool and None.

    Raises:
        ValueError: a float that is not finite, or text with a lone surrogate.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    if "\\ud" in text:  # an emoji is a pair of surrogates; one alone is no character, and UTF-8 cannot say it
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return text.encode("ascii")


def decode_object(data: bytes, *, source: str, max_bytes: int) -> dict[str, object]:
    """The JSON object that `data` canonically encodes.

    Args:
        data: bytes from anywhere.
        source: what to call them in an error.
        max_bytes: larger input is refused before it is parsed.

    Raises:
        ArtifactError: not JSON, not an object, too large, or not in canonical form.
    """
    if len(data) > max_bytes:
        raise ArtifactError(f"{source}: {len(data)} bytes of JSON, at most {max_bytes} are read")
    try:
        value = json.loads(data.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{source}: a JSON object is needed, found {type(value).__name__}")
    # One comparison stands for many rules: duplicate keys, spacing, key order, escapes and float spelling.
    if not _is_canonical(value, data):
        raise ArtifactError(f"{source}: JSON is not canonical (keys sorted and unique, no spaces, no lone surrogates)")
    return value


def _is_canonical(value: object, data: bytes) -> bool:
    try:
        return encode(value) == data
    except (ValueError, RecursionError):
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
