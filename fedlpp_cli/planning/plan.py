"""`plan`: before a federation, what each setting would cost and give away.

First the rounds are played without rounding: that gives theta, the model that everything is compared with. At theta
every setting of the grid, and every mix of widths that the groups' scores suggest, is measured: cheap. The few that no
other one beats are then played round by round, in a private folder that is gone afterwards.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.whole import check_absent
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import LeakageError, UsageError
from fedlpp_cli.planning.candidates import Grid
from fedlpp_cli.planning.choice import comments, write_choice
from fedlpp_cli.planning.inputs import read_inputs
from fedlpp_cli.planning.planner import Effort, Planner
from fedlpp_cli.planning.rounds import Stage
from fedlpp_cli.planning.verdict import way_out
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.plans import PlanReport, PlanTargets
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import Settings
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike


class PlanResult(Record, frozen=True, kw_only=True):
    """What `plan` found. `path`: the federation file of the choice; without one the report; None for neither."""

    path: str | None
    report: str | None
    plan: PlanReport


def plan(  # noqa: PLR0913  # a step has as many settings as its command has options
    federation: FederationSpec,
    *,
    data: RefLike,
    clients: Mapping[str, RefLike] | None = None,
    n_shards: int | None = None,
    master: RefLike | None = None,
    grid: Grid | None = None,
    targets: PlanTargets | None = None,
    effort: Effort | None = None,
    trade_off: float = 1.0,
    settings: Settings | None = None,
    out: Path | str | None = None,
    report: RefLike | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    batch_size: int = 16,
    device: str = "auto",
    compute: ComputeSpec | None = None,
    dry_run: bool = False,
    force: bool = False,
    on_progress: Progress = silent,
) -> PlanResult:
    """Compare settings by bytes, by what the proxy is worth, and by what simulated rounds give away; choose one.

    Args:
        federation: what the commands would be told; the grid takes the place of some of it.
        data: calibration rows, public or synthetic: all models are measured on them.
        clients: client to data, for the simulated rounds.
        n_shards: instead, how many clients three quarters of the calibration rows are cut among.
        master: where rounds start; None for a new federation.
        grid: what is swept.
        targets: what the owner asks for.
        effort: rounds, finalists and time.
        trade_off: lambda of the score, what a risen loss is worth against a changed gradient.
        settings: the federation file, for what the chosen one takes over from it.
        out: where the chosen federation file goes; None for none.
        report: where all numbers go; None for nowhere.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        batch_size: rows that go through the model together when it is measured.
        device: "auto", "cpu" or "cuda".
        compute: how clients compute in the rounds.
        dry_run: read everything, say which settings there are and what they would send, and compute nothing.
        force: replace outputs that are there.
        on_progress: told what is going on.

    Raises:
        LeakageError: no setting meets the targets; the report is written, and no federation file.
        UsageError, InputError, DataError, ModelError: settings or inputs that do not do.
        GateError: the rounds without rounding went wrong.
    """
    grid, targets, effort = grid or Grid(), targets or PlanTargets(), effort or Effort()
    federation.check_rule()
    if federation.reference is not None:
        raise UsageError("rule fltrust: a plan has no reference")
    out = None if out is None else Path(out)
    for target in (out, None if report is None else parse_ref(report)):
        if isinstance(target, Path):
            check_absent(target, force=force)
    with tempfile.TemporaryDirectory(prefix=".fedlpp-plan-", dir=_beside(out)) as folder:
        work = Path(folder)
        inputs = read_inputs(
            federation, data, clients, n_shards, work,
            master=None if master is None else store.fetch(parse_ref(master)), columns=columns or {}, split=split,
            on_progress=on_progress,
        )  # fmt: skip
        stage = Stage(
            folder=work, clients=inputs.rows.clients, n_rounds=effort.n_rounds,
            master=None if master is None else store.fetch(parse_ref(master)), first_round=inputs.first_round,
            columns=columns or {}, split=inputs.rows.split, device=device, compute=compute or ComputeSpec(),
            on_progress=on_progress,
        )  # fmt: skip
        made = Planner(inputs, stage, grid, targets, effort, trade_off, batch_size)
        found = made.sizes() if dry_run else made.plan()
        told = federation if master is None else inputs.federation  # layers as the file names them
        chosen = None if found.chosen is None else made.candidates[found.chosen].federation(told)
    return _write(found, chosen, settings or Settings(), out, report, dry_run=dry_run, force=force)


def _write(
    found: PlanReport,
    chosen: FederationSpec | None,
    settings: Settings,
    out: Path | None,
    report: RefLike | None,
    *,
    dry_run: bool,
    force: bool,
) -> PlanResult:
    """The report in any case, the federation file where there is a choice.

    Raises:
        LeakageError: there is none.
    """
    path = None
    if report is not None and not dry_run:
        header = ReportHeader(federation=None, round=0, parents={}, spec=found)
        with store.destination(parse_ref(report), message="Plan", secret=True, force=force) as place:
            write_report(place.path, header, private=True, force=force)
            path = str(place.written)
    written = path
    if chosen is not None and out is not None:
        write_choice(out, chosen, settings, comments(found), force=force)
        written = str(out)
    result = PlanResult(path=written, report=path, plan=found)
    if chosen is None and not dry_run:
        raise LeakageError(
            found.verdict,
            result=result,
            hint=way_out(found.rows),
        )
    return result


def _beside(out: Path | None) -> Path | None:
    """Masters of the simulated rounds lie beside what the owner asked for; without that, where the system puts them."""
    return out.parent if out is not None and out.parent.is_dir() else None
