"""Options about masks; names are those of MaskSpec's fields with `mask` in front."""

from typing import Annotated

import typer

from fedlpp_cli.cli.options import of
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.settings import Settings
from fedlpp_cli.records.specs import BaseQuantSpec

MASKS = "Masks"

MaskServerOpt = Annotated[
    float | None,
    of(
        MaskSpec,
        "server",
        "Share of each layer's output features that no client ever gets.",
        panel=MASKS,
        flag="--mask-server",
    ),
]
MaskClientOpt = Annotated[
    float | None,
    of(MaskSpec, "client", "Of the rest, the share that each client does not get.", panel=MASKS, flag="--mask-client"),
]
MaskFreshOpt = Annotated[
    bool | None,
    typer.Option(
        "--mask-fresh/--no-mask-fresh",
        help="Other features in each round, as in the paper: after a few rounds a client has seen them all.",
        show_default="no-mask-fresh",
        rich_help_panel=MASKS,
    ),
]
MaskScalingOpt = Annotated[
    bool | None,
    typer.Option(
        "--mask-scaling/--no-mask-scaling",
        help="Multiply what is left, so that the mean over all masks is the adapter.",
        show_default="mask-scaling",
        rich_help_panel=MASKS,
    ),
]
MaskedClientOpt = Annotated[
    str | None,
    typer.Option("--client", help="With --mask-client: whose proxy it is.", show_default=False, rich_help_panel=MASKS),
]
BaseMaskOpt = Annotated[
    float | None,
    of(
        BaseQuantSpec,
        "mask",
        "Share of the output features of a private base's linear layers that no client gets.",
        panel=MASKS,
        flag="--base-mask",
    ),
]
BaseMaskScalingOpt = Annotated[
    bool | None,
    typer.Option(
        "--base-mask-scaling/--no-base-mask-scaling",
        help="Multiply the other features, so that the mean over all masks is the base.",
        show_default="base-mask-scaling",
        rich_help_panel=MASKS,
    ),
]


def mask_of(
    settings: Settings,
    *,
    server: float | None = None,
    client: float | None = None,
    fresh: bool | None = None,
    scaling: bool | None = None,
) -> MaskSpec:
    """What is hidden, out of options and the federation file.

    Raises:
        SettingsError: a share out of range, or fresh masks of nothing.
    """
    return settings.resolve(MaskSpec, server=server, client=client, fresh=fresh, scaling=scaling)
