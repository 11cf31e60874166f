"""`fedlpp plan`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast, get_args

import typer

from fedlpp_cli.cli import compute_options as c
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of, federation_of
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.plans import GroupBy, PlanTargets
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import BaseFormat, Bits, EvaluateSpec, ScaleType

if TYPE_CHECKING:
    from fedlpp_cli.planning.candidates import Grid

# 0, .5, 0.25
_SHARE: Final = re.compile(r"0|0?\.[0-9]{1,6}")
_SWEEP = "Settings to compare"
_TARGETS = "Targets"
_EFFORT = "Effort"

OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Where the federation file of the choice goes.", show_default=False
    ),
]
ReportOpt = Annotated[
    str | None,
    typer.Option("--report", metavar="PATH", help="Write all numbers there, for the owner.", show_default=False),
]
DataOpt = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="REF", help="Calibration rows, public or synthetic.", show_default="test_data of the file"
    ),
]
ShardsOpt = Annotated[
    int | None,
    typer.Option(
        "--shards",
        min=1,
        help="Cut three of four calibration rows among so many clients, instead of \\[clients] of the federation file.",
        show_default=False,
    ),
]
MasterOpt = Annotated[
    str | None,
    typer.Option(
        "--master", metavar="PATH", help="Where the rounds start, of a federation that goes on.", show_default=False
    ),
]


def _list_option(flag: str, text: str, default: str) -> Any:
    return typer.Option(flag, metavar="A,B,C", help=text, show_default=default, rich_help_panel=_SWEEP)


BitsOpt = Annotated[str | None, _list_option("--bits", "Widths of the adapter.", "4,3,2,ternary")]
BlockOpt = Annotated[str | None, _list_option("--block", "Weights that share a scale.", "64,256")]
ScaleOpt = Annotated[str | None, _list_option("--scale", "How scales are kept: fp32, fp16, double.", "fp16")]
RankOpt = Annotated[
    str | None, _list_option("--rank", "Ranks that clients get; the owner keeps what is beyond.", "the master's")
]
MaskOpt = Annotated[
    str | None, _list_option("--mask-client", "Shares of B's rows hidden from each client; 0 for none.", "the file's")
]
BaseFormatOpt = Annotated[
    str | None,
    _list_option("--base-format", "Formats of a private base; none for the base itself, to compare.", "the file's"),
]
GroupByOpt = Annotated[
    GroupBy,
    typer.Option(
        "--group-by", help="Also mix widths: by factor A or B, by module, by layer, or not.", rich_help_panel=_SWEEP
    ),
]
TradeOffOpt = Annotated[
    float,
    typer.Option(
        "--trade-off", min=1e-6, help="What a worse proxy is worth against a changed gradient.", rich_help_panel=_SWEEP
    ),
]
MaxRhoOpt = Annotated[
    float | None,
    typer.Option(
        "--max-rho",
        max=2,
        help="Share of the owner's gain that proxies may give away; 0.8 is 80 %.",
        show_default=False,
        rich_help_panel=_TARGETS,
    ),
]
MaxBytesOpt = Annotated[
    int | None,
    typer.Option(
        "--max-bytes-down",
        min=1,
        help="Bytes to each client in a round.",
        show_default=False,
        rich_help_panel=_TARGETS,
    ),
]
MaxLossOpt = Annotated[
    float | None,
    typer.Option(
        "--max-loss-increase",
        min=0,
        help="Loss of the owner's model above that without rounding.",
        show_default=False,
        rich_help_panel=_TARGETS,
    ),
]
RoundsOpt = Annotated[
    int, typer.Option("--rounds", min=1, help="Simulated rounds of each setting.", rich_help_panel=_EFFORT)
]
FinalistsOpt = Annotated[
    int, typer.Option("--finalists", min=1, help="How many settings are simulated at most.", rich_help_panel=_EFFORT)
]
BudgetOpt = Annotated[
    float | None,
    typer.Option(
        "--budget",
        metavar="MINUTES",
        min=0,
        help="Begin no other setting that would end later.",
        show_default="no limit",
        rich_help_panel=_EFFORT,
    ),
]


def plan(
    data: DataOpt = None,
    shards: ShardsOpt = None,
    master: MasterOpt = None,
    out: OutOpt = None,
    report: ReportOpt = None,
    bits: BitsOpt = None,
    block: BlockOpt = None,
    scale: ScaleOpt = None,
    rank: RankOpt = None,
    mask_client: MaskOpt = None,
    base_format: BaseFormatOpt = None,
    group_by: GroupByOpt = "factor",
    trade_off: TradeOffOpt = 1.0,
    max_rho: MaxRhoOpt = None,
    max_bytes_down: MaxBytesOpt = None,
    max_loss_increase: MaxLossOpt = None,
    rounds: RoundsOpt = 4,
    finalists: FinalistsOpt = 6,
    budget: BudgetOpt = None,
    base: o.BaseOpt = None,
    seed: o.SeedOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    batch_size: o.EvaluateBatchSizeOpt = None,
    device: c.TrainDeviceOpt = "auto",
    compute: c.ComputeOpt = "auto",
    batching: c.BatchingOpt = "auto",
    micro_batch: c.MicroBatchOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Compare settings before a federation: base + calibration data -> table, and the federation file of the best.

    Exit code 12 where nothing meets the targets.

    fedlpp plan -f federation.toml --base ./model --data calibration.jsonl --shards 4 --out federation.planned.toml
    fedlpp plan -f federation.toml --max-rho 0.8 --max-bytes-down 2000000 --out federation.planned.toml
    fedlpp plan -f federation.toml --shards 4 --bits 4,2 --block 64 --scale fp16,double --rank 8,4 --dry-run
    fedlpp plan -f federation.toml --bits 3 --mask-client 0,0.25,0.5 --max-rho 0.8 --out federation.planned.toml
    """
    from fedlpp_cli.planning.plan import plan as step
    from fedlpp_cli.planning.planner import Effort

    settings = read_settings(federation)
    if settings.file.privacy:
        raise UsageError(
            f"{federation} [privacy]: the rounds of a plan have no privacy for examples",
            hint="a federation file without [privacy]",
        )
    return step(
        federation_of(settings, base=base, seed=seed),
        data=settings.needed_ref(data, "test_data", flag="--data"),
        clients={client: settings.relative(ref) for client, ref in settings.file.clients.items()},
        n_shards=shards,
        master=master,
        grid=_grid(bits, block, scale, rank, mask_client, base_format, group_by),
        targets=PlanTargets(max_rho=max_rho, max_bytes_down=max_bytes_down, max_loss_increase=max_loss_increase),
        effort=Effort(n_rounds=rounds, n_finalists=finalists, budget_minutes=budget),
        trade_off=trade_off,
        settings=settings,
        out=out,
        report=report,
        columns=columns_of(settings, column),
        split=split,
        batch_size=settings.resolve(EvaluateSpec, batch_size=batch_size).batch_size,
        device=device,
        compute=c.compute_spec(compute, batching, False, micro_batch),
        dry_run=dry_run,
        force=force,
        on_progress=on_progress,
    )


def _grid(
    bits: str | None,
    block: str | None,
    scale: str | None,
    rank: str | None,
    mask: str | None,
    base_format: str | None,
    group_by: GroupBy,
) -> "Grid":
    from fedlpp_cli.planning.candidates import Grid

    given: dict[str, Any] = {
        "bits": _names("--bits", bits, get_args(Bits)),
        "blocks": _numbers("--block", block),
        "scales": _names("--scale", scale, get_args(ScaleType)),
    }
    formats = _names("--base-format", base_format, (*get_args(BaseFormat), "none"))
    return Grid(
        **{name: value for name, value in given.items() if value is not None},
        masks=_shares("--mask-client", mask),
        ranks=_numbers("--rank", rank),
        base_formats=None if formats is None else tuple(None if one == "none" else cast("Any", one) for one in formats),
        group_by=group_by,
    )


def _names(flag: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in a list with commas, each once; None where the option is not given."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(f"{flag} {name!r}: choose from {', '.join(known)}")
    return names


def _numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
    """The positive numbers in a list with commas, each once; None where the option is not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name.isdecimal() or not int(name) or len(name) > 7:
            raise UsageError(f"{flag} {name!r}: numbers with commas between them are needed", hint=f"{flag} 64,256")
    return tuple(dict.fromkeys(int(name) for name in names))


def _shares(flag: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers from 0 to below 1 in a list with commas, each once; None where the option is not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not _SHARE.fullmatch(name):
            raise UsageError(f"{flag} {name!r}: shares from 0 to below 1 are needed", hint=f"{flag} 0,0.25,0.5")
    return tuple(dict.fromkeys(float(name) for name in names))
