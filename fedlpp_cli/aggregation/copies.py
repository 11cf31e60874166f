"""Updates that hold the very tensors of another client's.

Training does not give that: the order of examples and dropout are drawn from streams that the client's name is part
of. What makes it is a client that sends on what somebody else has trained.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from fedlpp_cli.aggregation.received import Received
from fedlpp_cli.aggregation.stack import Update

_PIECE_BYTES: Final = 2**20


def find_copies(received: Sequence[Received]) -> list[tuple[Received, Received]]:
    """Pairs of a copy and what it is a copy of, of two clients.

    Equal tensors have equal norms, so that only updates whose norms are equal to the last bit are read once more.
    Nothing tells who was first: of equal ones the update whose file has the smallest sha256 counts as the original.

    Raises:
        ArtifactError: a file was cut short under us.
    """
    same_norm: dict[float, list[Received]] = defaultdict(list)
    for one in sorted(received, key=lambda one: one.update.sha256):
        same_norm[one.norm].append(one)
    copies = []
    for group in same_norm.values():
        same_tensors: dict[bytes, list[Received]] = defaultdict(list)
        for one in group if len(group) > 1 else ():
            same_tensors[_tensors_digest(one.update)].append(one)
        for first, *others in same_tensors.values():
            # Two updates of one client are for `check_duplicates`.
            client = first.update.header.spec.client
            copies += [(other, first) for other in others if other.update.header.spec.client != client]
    return copies


def _tensors_digest(update: Update) -> bytes:
    """Of the tensors' bytes in the order of their names, wherever they lie in the file."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE_BYTES))
    for _, info in sorted(update.tensors.items()):
        for offset in range(info.start, info.stop, _PIECE_BYTES):
            piece = buffer[: info.stop - offset]
            update.read_into(piece, offset)
            digest.update(piece)
    return digest.digest()
