"""A plan's parts in their order: rounds without rounding, settings measured, the best of them simulated, a choice."""

import dataclasses
import time
from dataclasses import dataclass

from msgspec.structs import replace

from fedlpp_cli.adapters.masks import mask_layout
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.engines.client_data import Cut, open_clients
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.evaluation.recovery import Recovery, recovery
from fedlpp_cli.evaluation.scored import Scored, mean_scores
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.models.first_values import first_values
from fedlpp_cli.planning.base_copies import BaseCopies
from fedlpp_cli.planning.candidates import Candidate, Grid, candidates
from fedlpp_cli.planning.finalists import Limits, finalists, simulate_all
from fedlpp_cli.planning.inputs import Inputs
from fedlpp_cli.planning.probe import Bench, Values
from fedlpp_cli.planning.rounds import Stage, play
from fedlpp_cli.planning.survey import Survey, mixed, rounded, sized
from fedlpp_cli.planning.verdict import choose, verdict
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.plans import GroupRow, PlanReport, PlanRow, PlanTargets
from fedlpp_cli.records.specs import FULL_PRECISION
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import choose_device

# Rows that gradients are taken on.
_N_GRADIENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much a plan may take.

    `n_rounds` are played without rounding and for each finalist; `n_finalists` at most, begun only as long as the whole
    plan is expected to end within `budget_minutes`.
    """

    n_rounds: int = 4
    n_finalists: int = 6
    budget_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.n_rounds < 1 or self.n_finalists < 1:
            raise UsageError("--rounds, --finalists: at least one of each is needed")


class Planner:
    """One plan, from sizes to the choice. `candidates` are those of the report's rows."""

    def __init__(
        self,
        inputs: Inputs,
        stage: Stage,
        grid: Grid,
        targets: PlanTargets,
        effort: Effort,
        trade_off: float,
        batch_size: int,
    ) -> None:
        """Nothing is computed yet; `planning/plan.py` says what the arguments are.

        Raises:
            UsageError: a grid that this federation cannot have.
        """
        self.inputs, self.stage, self.grid, self.targets, self.effort = inputs, stage, grid, targets, effort
        self.trade_off, self.started_s = trade_off, time.monotonic()
        self.federation, self.lora = inputs.federation, inputs.federation.lora
        self.copies = BaseCopies(
            federation=self.federation, folder=inputs.folder, work=stage.folder, on_progress=stage.on_progress
        )
        self.bench = Bench(
            task=inputs.task,
            device=choose_device(stage.device),
            batch_size=batch_size,
            held_out=inputs.rows.held_out,
            n_gradient=_N_GRADIENT,
            on_progress=stage.on_progress,
        )
        self.candidates = list(candidates(grid, self.federation, inputs.shapes))

    def sizes(self) -> PlanReport:
        """Which settings there are, and what they send."""
        said = "dry run: nothing was measured"
        rows = [replace(row, skipped=row.skipped or said) for row in map(self._sized, self.candidates)]
        return self._report(None, None, Recovery(None, None, 0.0, None), (), rows, None, said)

    def plan(self) -> PlanReport:
        """All of it. Raises as `plan`."""
        base, plain, survey = self._without_rounding()
        whole = recovery(plain, base=base, central=plain)
        groups = survey.group_rows(self.grid)
        self.candidates += self._mixed(groups)
        rows = []
        for number, one in enumerate(self.candidates):
            self.stage.on_progress("measuring settings", number, len(self.candidates))
            row = self._sized(one)
            rows.append(survey.measure(one, row) if row.skipped is None else row)
        best = finalists(rows, survey.gain, self.effort.n_finalists, self.targets.max_bytes_down)
        minutes = self.effort.budget_minutes
        limits = Limits(seconds=None if minutes is None else 60 * minutes, started_s=self.started_s)
        simulate_all(rows, best, self.candidates, survey, self.stage, base, limits)
        losses = [mean_scores(scored)["loss"] for scored in (base, plain)]
        chosen = choose(rows, self.targets, losses[1], losses[0] - losses[1])
        said = verdict(rows, self.targets, chosen, gain_is_told=whole.rho is not None)
        return self._report(base, plain, whole, groups, rows, chosen, said)

    def _without_rounding(self) -> tuple[Scored, Scored, Survey]:
        """What the base gets, what the owner's model gets that nobody rounded, and settings to be measured at it."""
        plain = unprotected(self.federation)
        played = play(self.stage, plain, "without-rounding")
        folder, bench = self.inputs.folder, self.bench
        first = first_values(folder, self.federation.task, self.lora, seed=self.federation.seed)
        base = bench.scored(folder, self.lora, first)
        gain = bench.slope(folder, self.lora, first).loss - bench.slope(folder, self.lora, played.newest).loss
        central = bench.scored(folder, played.lora, played.central)
        return base, central, self._survey(played.newest, gain)

    def _survey(self, theta: Values, gain: float) -> Survey:
        stage, seed = self.stage, self.federation.seed
        clients = open_clients(
            stage.clients,
            self.inputs.task,
            columns=stage.columns,
            split=stage.split,
            seed=seed,
            on_progress=stage.on_progress,
        )
        return Survey(
            bench=self.bench,
            federation=self.federation,
            lora=self.lora,
            shapes=self.inputs.held,
            folder=self.inputs.folder,
            theta=theta,
            gain=gain,
            trade_off=self.trade_off,
            client=clients.names[0],
            shard=clients.examples(clients.names[0]),
            bases=self.copies.path,
            drawn=self.inputs.drawn,
            moving={name for one in self.inputs.updates(self.effort.n_rounds, self.lora.rank) for name in one},
        )

    def _mixed(self, groups: tuple[GroupRow, ...]) -> tuple[Candidate, ...]:
        """Widths mixed by groups, of the first setting with the master's rank; none where there is none."""
        there = (one for one in self.candidates if one.refusal(self.federation) is None)
        like = next((one for one in there if one.rank == self.lora.rank), None)
        if like is None:
            return ()
        max_bytes = self.targets.max_bytes_down
        if max_bytes is not None and like.base_quantize is not None:
            max_bytes -= self.copies.n_bytes(like.base_quantize)
        if max_bytes is not None and like.mask.hides:
            max_bytes -= layout_bytes(mask_layout(self.inputs.shapes, like.mask))
        return mixed(groups, self.grid, self.federation, self.inputs.held, like, max_bytes)

    def _sized(self, candidate: Candidate) -> PlanRow:
        row = sized(candidate, self.inputs, self.effort.n_rounds, self.copies.n_bytes)
        reason = candidate.refusal(self.federation)
        return row if reason is None else replace(row, skipped=reason[:300])

    def _report(
        self,
        base: Scored | None,
        plain: Scored | None,
        whole: Recovery,
        groups: tuple[GroupRow, ...],
        rows: list[PlanRow],
        chosen: int | None,
        said: str,
    ) -> PlanReport:
        clients = self.inputs.rows.clients
        return PlanReport(
            task=self.federation.task,
            data=self.inputs.data.sha256,
            n_examples=len(self.inputs.rows.held_out),
            n_clients=clients.n_clients or 0 if isinstance(clients, Cut) else len(clients),
            n_rounds=self.effort.n_rounds,
            headline="accuracy" if self.federation.task.kind == "seq-cls" else "loss",
            base={} if base is None else rounded(mean_scores(base)),
            plain={} if plain is None else rounded(mean_scores(plain)),
            gain=six_digits(whole.gain),
            gain_interval=whole.gain_interval,
            trade_off=self.trade_off,
            targets=self.targets,
            groups=groups,
            rows=tuple(rows),
            chosen=chosen,
            verdict=said,
        )


def unprotected(federation: FederationSpec) -> FederationSpec:
    """The federation without anything that hides its adapter; a method that does is FedLPP without it."""
    method = METHOD if method_named(federation.method).mask.hides else federation.method
    return dataclasses.replace(
        federation, method=method, quantize=FULL_PRECISION, mask=MaskSpec(), proxy_rank=None, private_base=False
    )
