"""`fedlpp client-train`."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli import checkpoint_options as k
from fedlpp_cli.cli import compute_options as c
from fedlpp_cli.cli import key_options as s
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli import privacy_options as p
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.policy import read_policy
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings

PackageArg = Annotated[
    str, typer.Argument(metavar="PACKAGE", help="What the owner sent: a folder, or hf://…", show_default=False)
]
ClientOpt = Annotated[str, typer.Option("--client", help="The name that the owner knows you by.")]
TrainDataOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="REF",
        help="Your rows: .jsonl, .csv, .parquet, a saved datasets folder, or hf://datasets/owner/repo.",
        show_default=False,
        rich_help_panel=o.DATA,
    ),
]
StateOpt = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="REF",
        help="What --state-out kept in your last round; it goes into this one.",
        show_default=False,
    ),
]
StateOutOpt = Annotated[
    str | None,
    typer.Option(
        "--state-out",
        metavar="PATH",
        help="Where to keep what rounding takes from this update, and control variates; yours alone.",
        show_default=False,
    ),
]
PolicyOpt = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        envvar="FEDLPP_POLICY",
        help="client.toml with what you allow packages to ask.",
        show_default=False,
    ),
]


def client_train(
    package: PackageArg,
    client: ClientOpt,
    out: o.OutOpt,
    data: TrainDataOpt = None,
    base: o.BaseOpt = None,
    state: StateOpt = None,
    state_out: StateOutOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    device: c.TrainDeviceOpt = "auto",
    compute: c.ComputeOpt = "auto",
    batching: c.BatchingOpt = "auto",
    gradient_checkpointing: c.CheckpointingOpt = False,
    micro_batch: c.MicroBatchOpt = None,
    checkpoint: k.CheckpointOpt = None,
    checkpoint_every: k.CheckpointEveryOpt = None,
    force_restart: k.ForceRestartOpt = False,
    log: k.LogOpt = None,
    dp_epsilon: p.DpEpsilonOpt = None,
    noise_multiplier: p.NoiseMultiplierOpt = None,
    dp_delta: p.DpDeltaOpt = None,
    dp_rounds: p.DpRoundsOpt = None,
    max_grad_norm: p.MaxGradNormOpt = None,
    ledger: p.LedgerOpt = None,
    new_ledger: p.NewLedgerOpt = False,
    max_epsilon: p.MaxEpsilonOpt = None,
    data_changed: p.DataChangedOpt = False,
    federation: o.FederationOpt = None,
    policy: PolicyOpt = None,
    signer: s.SignerOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
    shard_base: c.ShardBaseOpt = False,
    trial_steps: c.TrialStepsOpt = 3,
) -> Record:
    """Train on your own data: package + data -> update, which is sent back.

    fedlpp client-train package --client north --data notes.jsonl --out north.safetensors
    fedlpp client-train package --client north --data notes.jsonl --signer clinic.pub --out north.safetensors
    fedlpp client-train package-7 --client north --data notes.jsonl --state state-6.safetensors
        --state-out state-7.safetensors --out north-7.safetensors
    fedlpp client-train package --client north --data notes.jsonl --checkpoint north.checkpoint
        --log north.jsonl --out north.safetensors
    fedlpp client-train package --client north --data notes.jsonl --dp-epsilon 8 --dp-rounds 10 --ledger notes.budget
        --new-ledger --out north.safetensors
    fedlpp client-train hf://org/federation/round-0000/package --base ./model --client north --data notes.csv
        --column text=body --out hf://org/updates/round-0000/north.safetensors
    """
    from fedlpp_cli.steps.client_train import client_train as step

    settings = read_settings(federation)
    rows = data if data is not None else settings.client_data(client)
    if rows is None:
        raise UsageError("--data is missing", hint="or a line for the client under [clients] in the --federation file")
    return step(
        package,
        client=client,
        data=rows,
        out=out,
        base=settings.ref(base, "base"),
        state=state,
        state_out=state_out,
        columns=columns_of(settings, column),
        split=split,
        device=device,
        policy=read_policy(policy),
        signers=s.trusted_keys(signer),
        privacy=p.privacy_settings(
            settings,
            ledger=ledger,
            max_epsilon=max_epsilon,
            new_ledger=new_ledger,
            data_changed=data_changed,
            epsilon=dp_epsilon,
            noise_multiplier=noise_multiplier,
            delta=dp_delta,
            n_rounds=dp_rounds,
            max_grad_norm=max_grad_norm,
        ),
        compute=c.compute_spec(
            compute, batching, gradient_checkpointing, micro_batch, trial_steps, shard_base=shard_base
        ),
        checkpoint=k.checkpointing(checkpoint, checkpoint_every, restart=force_restart),
        watches=k.watches(log, force=force),
        force=force,
        dry_run=dry_run,
        on_progress=on_progress,
    )
