"""`fedlpp pack`."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli import key_options as k
from fedlpp_cli.cli import options as o
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import QuantSpec, TrainSpec

ProxyArg = Annotated[str, typer.Argument(metavar="PROXY", help="What quantize made.", show_default=False)]
ForClientOpt = Annotated[
    str | None, typer.Option("--client", help="The one client that it is for.", show_default="any client")
]
LedgerOpt = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="Notes what was released; nothing is released in a second rounding.",
        show_default="one a federation, in the state folder",
    ),
]


def pack(
    proxy: ProxyArg,
    out: o.OutOpt,
    client: ForClientOpt = None,
    base_artifact: o.BaseArtifactOpt = None,
    steps: o.StepsOpt = None,
    epochs: o.EpochsOpt = None,
    batch_size: o.BatchSizeOpt = None,
    gradient_accumulation: o.GradientAccumulationOpt = None,
    optimizer: o.OptimizerOpt = None,
    learning_rate: o.LearningRateOpt = None,
    weight_decay: o.WeightDecayOpt = None,
    momentum: o.MomentumOpt = None,
    schedule: o.ScheduleOpt = None,
    warmup: o.WarmupOpt = None,
    max_grad_norm: o.MaxGradNormOpt = None,
    proximal_mu: o.ProximalMuOpt = None,
    control_variates: o.ControlVariatesOpt = None,
    compute: o.ComputeOpt = None,
    max_update_norm: o.MaxUpdateNormOpt = None,
    ledger: LedgerOpt = None,
    update_bits: o.UpdateBitsOpt = None,
    update_block: o.UpdateBlockOpt = None,
    update_scale: o.UpdateScaleOpt = None,
    update_scale_rounding: o.UpdateScaleRoundingOpt = None,
    update_codebook: o.UpdateCodebookOpt = None,
    federation: o.FederationOpt = None,
    sign: k.SignOpt = None,
    passphrase_file: k.PassphraseFileOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Bind a proxy and a training recipe: proxy -> package, which is sent to clients.

    fedlpp pack proxy.safetensors --steps 50 --learning-rate 2e-3 --out package
    fedlpp pack proxy.safetensors --steps 50 --update-bits 4 --out package
    fedlpp pack proxy.safetensors --steps 50 --sign clinic.pem --out package
    fedlpp pack proxy.safetensors -f federation.toml --out hf://org/federation/round-0000/package
    """
    from fedlpp_cli.steps.pack import pack as step

    settings = read_settings(federation)
    train = settings.resolve(
        TrainSpec,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
        schedule=schedule,
        warmup=warmup,
        max_grad_norm=max_grad_norm,
        proximal_mu=proximal_mu,
        control_variates=control_variates,
        compute=compute,
        max_update_norm=max_update_norm,
    )
    return step(
        proxy,
        out=out,
        train=train,
        update=settings.resolve(
            QuantSpec,
            "update",
            bits=update_bits,
            block=update_block,
            scale=update_scale,
            scale_rounding=update_scale_rounding,
            codebook=update_codebook,
        ),
        client=client,
        base_artifact=base_artifact,
        ledger=ledger,
        sign=k.signing_keys(sign, passphrase_file),
        force=force,
        dry_run=dry_run,
    )
