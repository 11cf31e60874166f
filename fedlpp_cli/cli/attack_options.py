"""Options of `simulate` about who is against the owner; names are those of AttackSpec's fields."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedlpp_cli.errors import UsageError

if TYPE_CHECKING:
    from fedlpp_cli.engines.attack_spec import AttackSpec

ATTACK = "Attack"

AttackOpt = Annotated[
    Literal["sign-flip", "gaussian", "alie", "ipm", "label-flip", "backdoor"] | None,
    typer.Option(
        "--attack", help="Some clients are against the owner. An experiment.", show_default=False,
        rich_help_panel=ATTACK,
    ),
]  # fmt: skip
NAttackersOpt = Annotated[
    int | None,
    typer.Option(
        "--n-attackers", min=0, help="How many of the clients.", show_default=False, rich_help_panel=ATTACK
    ),
]  # fmt: skip
AttackScaleOpt = Annotated[
    float | None,
    typer.Option(
        "--attack-scale",
        help="Factor of the update or of the noise, alie's z, ipm's epsilon.",
        show_default="10; alie: by n; ipm: 0.5; label-flip: 1",
        rich_help_panel=ATTACK,
    ),
]
TriggerOpt = Annotated[
    str | None,
    typer.Option(
        "--trigger", metavar="TEXT", help="Backdoor: the words.", show_default="cf", rich_help_panel=ATTACK
    ),
]  # fmt: skip
TargetLabelOpt = Annotated[
    str | None,
    typer.Option(
        "--target-label", metavar="LABEL", help="Backdoor: what they shall make the model say.",
        show_default="the first label", rich_help_panel=ATTACK,
    ),
]  # fmt: skip
PoisonedShareOpt = Annotated[
    float | None,
    typer.Option(
        "--poisoned-share", help="Backdoor: of an attacker's rows.", show_default="0.5", rich_help_panel=ATTACK
    ),
]  # fmt: skip


def attack_of(attack: str | None, n_attackers: int | None, **options: object) -> "AttackSpec | None":
    """The attack that the options describe, None for none.

    Args:
        attack: its name.
        n_attackers: how many.
        **options: the other fields of AttackSpec.

    Raises:
        UsageError: options that do not go together, or out of range.
    """
    from fedlpp_cli.engines.attack_spec import AttackSpec
    from fedlpp_cli.records.record import read_record

    given = {name: value for name, value in options.items() if value is not None}
    if attack is None:
        if n_attackers is not None or given:
            raise UsageError("--n-attackers and its like go with --attack")
        return None
    if n_attackers is None:
        raise UsageError(f"--attack {attack}: --n-attackers is missing")
    raw = {"attack": attack, "n_attackers": n_attackers, **given}
    return read_record(raw, AttackSpec, source=f"--attack {attack}", error=UsageError)
