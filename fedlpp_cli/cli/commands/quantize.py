"""`fedlpp quantize`."""

import dataclasses
from typing import Annotated

import typer

from fedlpp_cli.cli import mask_options as m
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import groups_of, keep_of
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec

BaseOutOpt = Annotated[
    str | None,
    typer.Option(
        "--base-out",
        metavar="REF",
        help="Private base: where its quantized copy goes, or lies since an earlier round.",
        show_default=False,
    ),
]

RankOpt = Annotated[
    int | None,
    typer.Option(
        "--rank",
        help="The proxy's rank, for clients who train with less: the first rows of A and columns of B.",
        show_default="the master's",
    ),
]


def quantize(
    master: o.MasterArg,
    out: o.OutOpt,
    rank: RankOpt = None,
    bits: o.BitsOpt = None,
    block: o.BlockOpt = None,
    scale: o.ScaleOpt = None,
    rounding: o.RoundingOpt = None,
    rounding_seed: o.RoundingSeedOpt = None,
    scale_rounding: o.ScaleRoundingOpt = None,
    codebook: o.CodebookOpt = None,
    group: o.GroupOpt = None,
    mask_server: m.MaskServerOpt = None,
    mask_client: m.MaskClientOpt = None,
    mask_fresh: m.MaskFreshOpt = None,
    mask_scaling: m.MaskScalingOpt = None,
    client: m.MaskedClientOpt = None,
    base: o.BaseOpt = None,
    base_out: BaseOutOpt = None,
    base_format: o.BaseFormatOpt = None,
    base_block: o.BaseBlockOpt = None,
    base_double: o.BaseDoubleOpt = None,
    base_keep: o.BaseKeepOpt = None,
    base_mask: m.BaseMaskOpt = None,
    base_mask_scaling: m.BaseMaskScalingOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Round a master's adapter: master -> proxy, which clients may see.

    fedlpp quantize master.safetensors --bits 3 --out proxy.safetensors
    fedlpp quantize master.safetensors --bits 3 --rank 2 --out proxy-2.safetensors
    fedlpp quantize master.safetensors --bits 2 --group lora_B=4 --out proxy.safetensors
    fedlpp quantize master.safetensors --codebook symmetric --mask-client 0.5 --client bank --out bank.safetensors
    fedlpp quantize master.safetensors --bits ternary --block 256 --dry-run --out proxy.safetensors
    fedlpp quantize master.safetensors --rounding stochastic --rounding-seed spring --scale-rounding up --out proxy
    fedlpp quantize master.safetensors --base ./secret-model --base-out base --out proxy.safetensors
    fedlpp quantize master.safetensors --base ./secret-model --base-mask 0.1 --base-out base --out proxy.safetensors
    """
    from fedlpp_cli.steps.quantize import defaults_of
    from fedlpp_cli.steps.quantize import quantize as step

    settings = dataclasses.replace(read_settings(federation), defaults=defaults_of(master))
    return step(
        master,
        out=out,
        spec=settings.resolve(
            QuantSpec,
            bits=bits,
            block=block,
            scale=scale,
            rounding=rounding,
            rounding_seed=rounding_seed,
            scale_rounding=scale_rounding,
            codebook=codebook,
            groups=groups_of(settings, group),
        ),
        rank=rank if rank is not None else settings.file.proxy_rank,
        mask=m.mask_of(settings, server=mask_server, client=mask_client, fresh=mask_fresh, scaling=mask_scaling),
        client=client,
        base=settings.ref(base, "base"),
        base_out=base_out,
        base_spec=settings.resolve(
            BaseQuantSpec,
            format=base_format,
            block=base_block,
            double=base_double,
            keep=keep_of(base_keep),
            mask=base_mask,
            mask_scaling=base_mask_scaling,
        ),
        force=force,
        dry_run=dry_run,
        on_progress=on_progress,
    )
