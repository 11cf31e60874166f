"""`fedlpp simulate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedlpp_cli.cli import attack_options as a
from fedlpp_cli.cli import compute_options as c
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of, federation_of
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import Settings, read_settings
from fedlpp_cli.refs import Ref

if TYPE_CHECKING:
    from fedlpp_cli.engines.client_data import Cut

_CLIENTS = "Clients"

RunOutOpt = Annotated[
    str, typer.Option("--out", "-o", metavar="RUN", help="The run's folder; one that is there is gone on with.")
]
RoundsOpt = Annotated[int, typer.Option("--rounds", min=1, help="How many rounds there are in the end.")]
CutDataOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="REF",
        help="One data set that is cut among the clients, instead of \\[clients] of the federation file.",
        show_default=False,
        rich_help_panel=_CLIENTS,
    ),
]
ClientsOpt = Annotated[
    int | None,
    typer.Option("--clients", min=1, help="With --data: among how many.", show_default=False, rich_help_panel=_CLIENTS),
]
PartitionOpt = Annotated[
    Literal["iid", "dirichlet", "column"] | None,
    typer.Option(
        "--partition",
        help="With --data: at random, by labels (Hsu et al. 2019), or equal values of a column together.",
        show_default="iid",
        rich_help_panel=_CLIENTS,
    ),
]
AlphaOpt = Annotated[
    float | None,
    typer.Option(
        "--dirichlet-alpha",
        help="Large: clients are alike. Small: most have one label.",
        show_default="1.0",
        rich_help_panel=_CLIENTS,
    ),
]
PartitionColumnOpt = Annotated[
    str | None,
    typer.Option(
        "--partition-column",
        metavar="NAME",
        help="What column goes by, or dirichlet takes for the label.",
        show_default="the task's label",
        rich_help_panel=_CLIENTS,
    ),
]
PerRoundOpt = Annotated[
    int | None,
    typer.Option(
        "--clients-per-round",
        min=1,
        help="How many take part in a round, drawn anew each time.",
        show_default="all",
        rich_help_panel=_CLIENTS,
    ),
]
ReferenceOpt = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="CLIENT",
        help="Its data is the owner's, who trains on it for fltrust; it takes part in no round.",
        show_default=False,
        rich_help_panel=_CLIENTS,
    ),
]
KeepStateOpt = Annotated[
    bool,
    typer.Option(
        "--keep-state/--no-keep-state",
        help="Clients keep what rounding takes from their updates, and add it to the next ones; and control variates.",
        rich_help_panel=_CLIENTS,
    ),
]
KeepUpdatesOpt = Annotated[
    bool,
    typer.Option(
        "--keep-updates/--no-keep-updates",
        help="Keep a round's updates, and old states, once it is aggregated.",
        show_default="keep-updates",
    ),
]
LedgerOpt = Annotated[
    Path | None,
    typer.Option(
        "--ledger", metavar="FILE", help="Notes what was released.", show_default="releases.jsonl in the run's folder"
    ),
]


def simulate(
    out: RunOutOpt,
    rounds: RoundsOpt = 3,
    data: CutDataOpt = None,
    clients: ClientsOpt = None,
    partition: PartitionOpt = None,
    dirichlet_alpha: AlphaOpt = None,
    partition_column: PartitionColumnOpt = None,
    clients_per_round: PerRoundOpt = None,
    reference: ReferenceOpt = None,
    keep_state: KeepStateOpt = False,
    keep_updates: KeepUpdatesOpt = True,
    attack: a.AttackOpt = None,
    n_attackers: a.NAttackersOpt = None,
    attack_scale: a.AttackScaleOpt = None,
    trigger: a.TriggerOpt = None,
    target_label: a.TargetLabelOpt = None,
    poisoned_share: a.PoisonedShareOpt = None,
    base: o.BaseOpt = None,
    method: o.MethodOpt = None,
    warmup_rounds: o.WarmupRoundsOpt = None,
    seed: o.SeedOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    device: c.TrainDeviceOpt = "auto",
    compute: c.ComputeOpt = "auto",
    batching: c.BatchingOpt = "auto",
    gradient_checkpointing: c.CheckpointingOpt = False,
    micro_batch: c.MicroBatchOpt = None,
    ledger: LedgerOpt = None,
    federation: o.FederationOpt = None,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Play a whole federation in this process, with one base model that stays open: clients + settings -> run folder.

    It ends in the master that the commands end in, byte for byte, and goes on where it was stopped.

    fedlpp simulate -f federation.toml --rounds 3 --out runs/a
    fedlpp simulate -f federation.toml --data notes.jsonl --clients 100 --clients-per-round 10 --out runs/b
    fedlpp simulate -f federation.toml --data notes.jsonl --clients 20 --partition dirichlet --dirichlet-alpha 0.3
        --partition-column topic --out runs/c --dry-run
    fedlpp simulate -f federation.toml --data notes.jsonl --clients 20 --attack sign-flip --n-attackers 4 --out runs/d
    """
    from fedlpp_cli.engines.simulate import simulate as engine

    settings = read_settings(federation)
    if settings.file.privacy:
        raise UsageError(
            f"{federation} [privacy]: a simulation's clients have no privacy for examples, and no ledgers",
            hint="client-train has both; or a federation file without [privacy]",
        )
    return engine(
        federation_of(settings, base=base, method=method, warmup_rounds=warmup_rounds, seed=seed, reference=reference),
        _clients(settings, data, clients, partition, dirichlet_alpha, partition_column),
        out=out,
        n_rounds=rounds,
        clients_per_round=clients_per_round,
        keep_updates=keep_updates,
        keep_state=keep_state,
        attack=a.attack_of(
            attack,
            n_attackers,
            scale=attack_scale,
            trigger=trigger,
            target_label=target_label,
            poisoned_share=poisoned_share,
        ),
        ledger=ledger,
        columns=columns_of(settings, column),
        split=split,
        device=device,
        compute=c.compute_spec(compute, batching, gradient_checkpointing, micro_batch),
        dry_run=dry_run,
        on_progress=on_progress,
    )


def _clients(
    settings: Settings,
    data: str | None,
    n_clients: int | None,
    partition: Literal["iid", "dirichlet", "column"] | None,
    alpha: float | None,
    column: str | None,
) -> "Mapping[str, Ref] | Cut":
    from fedlpp_cli.engines.client_data import Cut

    if data is None:
        given = {
            "--clients": n_clients,
            "--partition": partition,
            "--dirichlet-alpha": alpha,
            "--partition-column": column,
        }
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"{flag} goes with --data: it says how one data set is cut")
        return {client: settings.relative(ref) for client, ref in settings.file.clients.items()}
    if alpha is not None and partition != "dirichlet":
        raise UsageError("--dirichlet-alpha goes with --partition dirichlet")
    return Cut(
        data=data, n_clients=n_clients, scheme=partition or "iid", alpha=1.0 if alpha is None else alpha, column=column
    )
