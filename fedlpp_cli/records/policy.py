"""What a client allows: `client.toml`, a file of the client's own that no owner can change."""

import tomllib
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from fedlpp_cli.errors import SettingsError
from fedlpp_cli.records.keys import PublicKey, parse_public_key
from fedlpp_cli.records.privacy import Delta
from fedlpp_cli.records.record import Digest, PositiveFloat, PositiveInt, Record, read_record


class ClientPolicy(Record, frozen=True, kw_only=True):
    """Limits for what a package may ask; what is left out has none.

    With one of the last three a training without privacy for its examples is refused.
    """

    signers: Annotated[
        tuple[str, ...],
        # An empty list would read as if nobody was trusted, and trust everybody.
        Meta(
            min_length=1,
            description="public keys, ed25519:…, each with a name behind it if you like; one must have signed",
        ),
    ] = ()
    federations: Annotated[
        tuple[Digest, ...], Meta(description="sha256 of the first masters of federations that are taken part in")
    ] = ()
    bases: Annotated[
        tuple[Digest, ...],
        Meta(description="sha256 of every weight file of a public base, of base/manifest.json where it is private"),
    ] = ()
    max_rounds: Annotated[PositiveInt | None, Meta(description="rounds of one federation")] = None
    max_steps: Annotated[PositiveInt | None, Meta(description="optimizer steps in one round")] = None
    max_epochs: Annotated[PositiveFloat | None, Meta(description="passes over the data in one round")] = None
    max_parameters: Annotated[PositiveInt | None, Meta(description="trainable parameters")] = None
    min_noise_multiplier: Annotated[
        PositiveFloat | None, Meta(description="noise on gradients, in units of their bound")
    ] = None
    max_epsilon: Annotated[
        PositiveFloat | None, Meta(description="privacy loss of all that was charged to the ledger, and of this round")
    ] = None
    max_delta: Annotated[Delta | None, Meta(description="chance that the bound does not hold")] = None

    def __post_init__(self) -> None:
        for text in self.signers:
            parse_public_key(text)

    @property
    def signer_keys(self) -> tuple[PublicKey, ...]:
        """`signers`, read."""
        return tuple(parse_public_key(text) for text in self.signers)

    @property
    def asks_for_privacy(self) -> bool:
        """Whether a training without privacy for its examples is refused."""
        return (self.min_noise_multiplier, self.max_epsilon, self.max_delta) != (None, None, None)


def read_policy(path: Path | str | None) -> ClientPolicy:
    """Read a policy file; None gives one without limits.

    Raises:
        SettingsError: missing, not TOML, with an unknown field or a value out of range.
    """
    if path is None:
        return ClientPolicy()
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not a TOML file ({error})") from None
    # A limit that nobody enforces, for a letter in its name, is worse than none: unknown fields are refused.
    return read_record(raw, ClientPolicy, source=str(path), error=SettingsError)
