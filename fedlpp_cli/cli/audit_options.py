"""Options of `audit`, and what they mean together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.audits import ATTACKS, COUNTED, Attack, AuditSpec
from fedlpp_cli.records.settings import Settings
from fedlpp_cli.refs import Ref

ATTACK = "Attackers"
UPDATE = "An update"

AuditArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARTIFACT...",
        help="A run folder, or masters, packages, proxies and updates.",
        show_default=False,
    ),
]
ShardOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--shard",
        metavar="CLIENT|REF",
        help="Rows that attackers may train on: a name under \\[clients] of the federation file, or a file; repeat it "
        "for more. The first is the lone client's.",
        show_default="all under [clients]",
        rich_help_panel=ATTACK,
    ),
]
SeenOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--seen",
        metavar="CLIENT=ROUNDS",
        help="Which rounds a client was in, as bank=0,2, where no updates say so; repeat it for more.",
        show_default="from updates",
        rich_help_panel=ATTACK,
    ),
]
AttacksOpt = Annotated[
    str | None,
    typer.Option(
        "--attacks", metavar="NAMES", help="Only these, separated by commas.", show_default=",".join(ATTACKS),
        rich_help_panel=ATTACK,
    ),
]  # fmt: skip
CountOpt = Annotated[
    str | None,
    typer.Option(
        "--count",
        metavar="NAMES",
        help="Attacks that verdict and --max-rho look at.",
        show_default=",".join(COUNTED),
        rich_help_panel=ATTACK,
    ),
]
EpochsOpt = Annotated[
    int,
    typer.Option(
        "--attack-epochs", min=1, help="Passes over its rows that an attacker trains.", rich_help_panel=ATTACK
    ),
]
QueriesOpt = Annotated[
    int,
    typer.Option(
        "--queries", min=1, help="Answers of the owner's model that a distillation has.", rich_help_panel=ATTACK
    ),
]
RoundOpt = Annotated[
    int | None,
    typer.Option("--round", min=0, help="Of the master to protect.", show_default="the newest"),
]
BudgetOpt = Annotated[
    float | None,
    typer.Option("--budget", min=0, metavar="MINUTES", show_default="no limit",
                 help="Begin no training that would end after it; break off --trials."),
]  # fmt: skip
MaxRhoOpt = Annotated[
    float | None,
    typer.Option(
        "--max-rho", max=2, help="Exit with 12 if an attack that counts recovers more; 0.8 is 80 %.", show_default=False
    ),
]
AuditOutOpt = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="REF", help="Write a report there, too: for its owner.", show_default=False),
]
HeldOutOpt = Annotated[
    str | None,
    typer.Option("--data", metavar="REF", help="Held-out rows.", show_default=False, rich_help_panel=o.DATA),
]


UpdateOpt = Annotated[
    str | None,
    typer.Option(
        "--update",
        metavar="REF",
        help="Audit an update instead, as its client, before it is sent; --data are the rows that it was trained on.",
        show_default=False,
        rich_help_panel=UPDATE,
    ),
]
PackageOpt = Annotated[
    str | None,
    typer.Option(
        "--package",
        metavar="REF",
        help="What the update was trained on.",
        show_default=False,
        rich_help_panel=UPDATE,
    ),
]
ControlDataOpt = Annotated[
    str | None,
    typer.Option(
        "--control-data",
        metavar="REF",
        help="Rows of the same kind that it was not trained on. Without them a training like it, of half of the rows, "
        "is tested on the other half.",
        show_default=False,
        rich_help_panel=UPDATE,
    ),
]
CanariesOpt = Annotated[
    int,
    typer.Option(
        "--canaries",
        min=0,
        help="Rows of random words to try; half of them are trained on. 0 for none.",
        rich_help_panel=UPDATE,
    ),
]
TrialsOpt = Annotated[
    int,
    typer.Option(
        "--trials",
        min=0,
        help="Rows that a search may try, to rebuild those of an update of 4 at most and 8 steps; 0 for none.",
        rich_help_panel=UPDATE,
    ),
]
MaxAucOpt = Annotated[
    float | None,
    typer.Option(
        "--max-auc",
        min=0.0,
        max=1.0,
        help="Exit with 12 if rows are told from others better than this; 0.5 is chance.",
        show_default=False,
        rich_help_panel=UPDATE,
    ),
]


def audit_spec(
    attacks: str | None, counted: str | None, epochs: int, queries: int, budget: float | None, max_rho: float | None
) -> AuditSpec:
    """The record that these options make.

    Raises:
        UsageError: no such attack.
    """
    return AuditSpec(
        attacks=_names(attacks, "--attacks", ATTACKS),
        counted=_names(counted, "--count", COUNTED),
        n_epochs=epochs,
        n_queries=queries,
        budget=budget,
        max_rho=max_rho,
    )


def shards_of(settings: Settings, given: Sequence[str] | None) -> dict[str, Ref]:
    """Client to rows: those of the options, else all clients of the federation file."""
    found: dict[str, Ref] = {}
    for one in given if given is not None else settings.file.clients:
        known = settings.client_data(one)
        ref = known if known is not None else settings.ref(one, "")
        name = one if known is not None else Path(str(one)).stem or one
        if name in found:
            raise UsageError(f"--shard {one}: a second one of the name {name!r}")
        if ref is not None:
            found[name] = ref
    return found


def seen_of(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Client to rounds.

    Raises:
        UsageError: anything but CLIENT=0,2.
    """
    found: dict[str, tuple[int, ...]] = {}
    for one in given or ():
        client, equals, rounds = one.partition("=")
        numbers = rounds.split(",")
        if not (client and equals and all(number.isascii() and number.isdigit() for number in numbers)):
            raise UsageError(f"--seen {one!r}: CLIENT=ROUNDS is needed", hint="--seen bank=0,2")
        found[client] = (*found.get(client, ()), *map(int, numbers))
    return found


def _names(text: str | None, flag: str, default: tuple[Attack, ...]) -> tuple[Attack, ...]:
    if text is None:
        return default
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = next((name for name in names if name not in ATTACKS), None)
    if unknown is not None or not names:
        raise UsageError(f"{flag} {unknown or text!r}: no such attack; choose from {', '.join(ATTACKS)}")
    return tuple(attack for attack in ATTACKS if attack in names)
