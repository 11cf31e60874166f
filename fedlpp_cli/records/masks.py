"""Which rows of the factors B clients do not get."""

from typing import Annotated, Literal

from msgspec import Meta

from fedlpp_cli.records.record import Record

HiddenShare = Annotated[float, Meta(ge=0, lt=1)]
MaskMean = Literal["aware", "unaware"]


class MaskSpec(Record, frozen=True, kw_only=True):
    """Shares of each layer's output features that masks hide (FedQSN, arXiv 2508.18911): rows of its factor B.

    `server`: of all rows, the same from all clients in all rounds. `client`: of what that leaves, each client's own,
    the same in all rounds unless `fresh`. With `scaling` the rows that are left are multiplied, so that the mean over
    all masks is the adapter. What a mask is drawn from is nobody's but the owner's.
    """

    server: HiddenShare = 0.0
    client: HiddenShare = 0.0
    fresh: bool = False
    scaling: bool = True

    @property
    def hides(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self.server or self.client)

    def __post_init__(self) -> None:
        if self.fresh and not self.client:
            raise ValueError("fresh: only what is hidden from each client can change; client is 0")
