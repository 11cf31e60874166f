"""Random numbers that nobody but the client can repeat.

Other streams have names that the owner knows too; noise from such a stream could be subtracted. These come from a
secret key of the operating system's entropy, by SHAKE-256 of key, context and names. The context is what the noise is
for (package, data, recipe): the same key with anything else gives other noise, so that no two updates share theirs.
"""

import hashlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

KEY_BYTES: Final = 32
_DOMAIN: Final = b"fedlpp secret stream 1"
_NAME_DOMAIN: Final = b"fedlpp secret stream's name 1"
_MANTISSA_BITS: Final = 53


def new_key() -> bytes:
    """The key of one training."""
    return os.urandom(KEY_BYTES)


class SecretStream:
    """Draws by name, in any order: a training that goes on at a later step has the numbers of that step.

    `key` is all that has to be kept for that; it belongs in a checkpoint of the client's own and nowhere else.
    """

    __slots__ = ("_context", "key")

    def __init__(self, key: bytes, context: str) -> None:
        """`key` of `new_key`, `context` any text."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {KEY_BYTES} bytes is needed")
        self.key = key
        self._context = hashlib.sha256(context.encode()).digest()

    def __repr__(self) -> str:
        return "SecretStream(...)"

    @property
    def digest(self) -> str:
        """A name of key and context, sha256, which tells neither."""
        return hashlib.sha256(_NAME_DOMAIN + self.key + self._context).hexdigest()

    def uniforms(self, count: int, *names: object) -> "np.ndarray":
        """`count` float64 in [0, 1), multiples of 2^-53."""
        import numpy as np

        label = "\0".join(str(name) for name in names).encode()
        # All parts in front of the label have a fixed length: no two streams are asked for with the same bytes.
        data = hashlib.shake_256(_DOMAIN + self.key + self._context + label).digest(8 * count)
        whole = np.frombuffer(data, "<u8") >> np.uint64(64 - _MANTISSA_BITS)
        return whole.astype(np.float64) * 2.0**-_MANTISSA_BITS

    def gaussians(self, count: int, *names: object) -> "np.ndarray":
        """`count` float64 of the standard normal distribution (Box and Muller 1958, doi 10.1214/aoms/1177706645).

        Their lowest bits are no ideal ones and could be told apart (Mironov 2012, doi 10.1145/2382196.2382264): whoever
        adds them does so in float64 and rounds the sum to float32, which leaves none of those bits.
        """
        import numpy as np

        pairs = -(-count // 2)
        drawn = self.uniforms(2 * pairs, *names)
        radius = np.sqrt(-2.0 * np.log1p(-drawn[:pairs]))
        angle = 2.0 * np.pi * drawn[pairs:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
