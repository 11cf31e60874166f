"""Options for how a client protects its examples; names are those of `PrivacySpec`'s fields."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.settings import Settings

if TYPE_CHECKING:
    from fedlpp_cli.steps.private_training import PrivacySettings

PRIVACY = "Privacy for examples"

DpEpsilonOpt = Annotated[
    float | None,
    typer.Option(
        "--dp-epsilon",
        help="Train with the noise with which all --dp-rounds cost this epsilon at most.",
        show_default=False,
        rich_help_panel=PRIVACY,
    ),
]
NoiseMultiplierOpt = Annotated[
    float | None,
    typer.Option(
        "--noise-multiplier",
        help="Or with this noise, in units of --max-grad-norm.",
        show_default=False,
        rich_help_panel=PRIVACY,
    ),
]
DpDeltaOpt = Annotated[
    float | None,
    typer.Option(
        "--dp-delta",
        help="The chance that epsilon does not hold; well below one over the number of rows.",
        show_default="1e-05",
        rich_help_panel=PRIVACY,
    ),
]
DpRoundsOpt = Annotated[
    int | None,
    typer.Option(
        "--dp-rounds",
        help="With --dp-epsilon: how many rounds there will be.",
        show_default="1",
        rich_help_panel=PRIVACY,
    ),
]
MaxGradNormOpt = Annotated[
    float | None,
    typer.Option(
        "--max-grad-norm",
        help="The bound on each example's gradient.",
        show_default="1",
        rich_help_panel=PRIVACY,
    ),
]
LedgerOpt = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="What this data has been through: one for all rounds and federations, yours alone.",
        show_default=False,
        rich_help_panel=PRIVACY,
    ),
]
NewLedgerOpt = Annotated[
    bool, typer.Option("--new-ledger", help="Begin the ledger if there is none.", rich_help_panel=PRIVACY)
]
MaxEpsilonOpt = Annotated[
    float | None,
    typer.Option(
        "--max-epsilon",
        help="How far all that the ledger counts may go; it keeps this, and takes no larger one later.",
        show_default="of a new ledger --dp-epsilon",
        rich_help_panel=PRIVACY,
    ),
]
DataChangedOpt = Annotated[
    bool,
    typer.Option(
        "--data-changed", help="Rows were added or changed since the ledger's last charge.", rich_help_panel=PRIVACY
    ),
]


def privacy_spec(settings: Settings, **options: float | None) -> PrivacySpec | None:
    """The noise that options and the federation file ask for; None where neither does.

    Raises:
        SettingsError: a value out of range, or not one of noise and epsilon.
    """
    is_asked = bool(settings.file.privacy) or any(value is not None for value in options.values())
    return settings.resolve(PrivacySpec, **options) if is_asked else None


def privacy_settings(
    settings: Settings,
    *,
    ledger: Path | None,
    max_epsilon: float | None,
    new_ledger: bool,
    data_changed: bool,
    **options: float | None,
) -> "PrivacySettings | None":
    """What options and the federation file ask for; None for a training as it comes.

    Raises:
        SettingsError: a value out of range, or not one of noise and epsilon.
        UsageError: privacy without a ledger, or a ledger without privacy.
    """
    spec = privacy_spec(settings, **options)
    if spec is None:
        if ledger is not None or max_epsilon is not None or new_ledger or data_changed:
            raise UsageError(
                "--ledger, --new-ledger, --max-epsilon and --data-changed go with privacy for examples",
                hint="--dp-epsilon or --noise-multiplier",
            )
        return None
    if ledger is None:
        raise UsageError(
            "--ledger is missing: privacy for examples is counted in a file", hint="--ledger FILE, one for all rounds"
        )
    if max_epsilon is not None and not 0 < max_epsilon < float("inf"):
        raise UsageError(f"--max-epsilon {max_epsilon}: a number above 0 is needed")
    from fedlpp_cli.steps.private_training import PrivacySettings

    return PrivacySettings(
        spec=spec, ledger=ledger, max_epsilon=max_epsilon, new_ledger=new_ledger, data_changed=data_changed
    )
