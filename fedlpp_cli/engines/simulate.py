"""`simulate`: a whole federation in one process, round after round, with one base model that stays open.

It writes the artifacts that the commands would write, byte for byte, where `mk/federate.mk` would have them. What is
there is done: a simulation that was stopped goes on with the first artifact that is missing.
"""

from collections.abc import Mapping
from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE
from fedlpp_cli.artifact.run_folder import RELEASES, RoundPaths, is_run, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.attack_spec import AttackSpec, check_mark, write_mark
from fedlpp_cli.engines.client_data import Cut, known_names
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.plan import SimulationPlan, plan_simulation
from fedlpp_cli.engines.resident import Resident
from fedlpp_cli.engines.roles import assign_roles
from fedlpp_cli.engines.rounds import SimulatedRound, Simulation
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.init import init
from fedlpp_cli.steps.inputs import RefLike, federation_of


class SimulateResult(Record, frozen=True, kw_only=True):
    """Where a simulation stands: `sha256` is that of the newest master, of round `round`.

    `rounds`: those that were played now. With `dry_run` nothing was, and `plan` says what would be. With an
    `attack` the run is an experiment with clients that are against the owner.
    """

    path: str
    federation: str | None
    round: int
    sha256: str | None
    rounds: tuple[SimulatedRound, ...]
    plan: SimulationPlan | None
    attack: AttackSpec | None


def simulate(  # noqa: PLR0913  # a step has as many settings as its command has options
    federation: FederationSpec,
    clients: Mapping[str, RefLike] | Cut,
    *,
    out: RefLike,
    n_rounds: int = 3,
    clients_per_round: int | None = None,
    keep_updates: bool = True,
    keep_state: bool = False,
    attack: AttackSpec | None = None,
    ledger: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    compute: ComputeSpec | None = None,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> SimulateResult:
    """Play a federation's rounds; end in the master that the commands, run by hand, end in.

    Args:
        federation: what the commands would be told.
        clients: client to data, or one data set that is cut among clients.
        out: the run folder; where one is there already, it is gone on with.
        n_rounds: how many rounds there are in the end.
        clients_per_round: how many clients take part in each round, drawn without replacement; None for all.
        keep_updates: False removes a round's updates, and the states before those it leaves, once it is aggregated.
        keep_state: clients keep what rounding takes from their updates, and add it to their next ones; and their
            control variates.
        attack: some clients are against the owner; the run is marked with it. None, or 0 attackers, for nobody.
        ledger: the file that notes what was released; None for the run folder's own.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu", "cuda" or "split" over all GPUs.
        compute: how clients compute; chosen from the machine where nothing is asked for.
        dry_run: read everything and say what would be done, write nothing.
        on_progress: told what is going on.

    Raises:
        UsageError, InputError, DataError: settings, clients or data that do not do.
        LineageError: artifacts in the run folder that do not belong to one another, to this data, or to this attack.
        GateError: a client's training that went wrong; the message names round and client.
        FedlppError: whatever the steps raise.
    """
    federation.check_rounds(n_rounds)
    federation.check_states(keep_state=keep_state)
    federation.check_rule()
    federation.check_method()
    attack = attack.resolved(federation.task) if attack is not None and attack.n_attackers else None
    if attack is not None and federation.mask.client:
        raise UsageError("--attack: simulated attackers know one package for all, and [mask] client gives each its own")
    names = known_names(clients)
    if names is not None:
        assign_roles(names, attack=attack, reference=federation.reference, seed=federation.seed)
    run = _run_folder(out)
    newest = _newest_master(run, federation)
    if newest is not None:
        check_mark(run, attack)
    if dry_run:
        plan = plan_simulation(
            federation,
            clients,
            master=None if newest is None else RoundPaths(run, newest).master,
            base_copy=run / BASE,
            round_number=newest or 0,
            n_left=max(0, n_rounds - (newest or 0)),
            clients_per_round=clients_per_round,
            attack=attack,
            columns=columns or {},
            split=split,
            on_progress=on_progress,
        )
        return _result(run, newest, (), plan, attack)
    if newest is None:
        write_mark(run, attack)
        _start(federation, RoundPaths(run, 0).master, on_progress)
    simulation = Simulation(
        run=run,
        federation=federation,
        source=clients,
        resident=Resident(federation.base, columns or {}, device, compute),
        clients_per_round=clients_per_round,
        keep_updates=keep_updates,
        keep_state=keep_state,
        attack=attack,
        ledger=Path(ledger or run / RELEASES),
        columns=columns or {},
        split=split,
        on_progress=on_progress,
    )
    rounds = tuple(simulation.play(number) for number in range(newest or 0, n_rounds))
    return _result(run, max(newest or 0, n_rounds), rounds, None, attack)


def _run_folder(out: RefLike) -> Path:
    """The folder; a place on the Hub is refused, as masters are."""
    with store.destination(parse_ref(out), message="", secret=True, force=True) as place:
        return place.path


def _newest_master(run: Path, asked: FederationSpec) -> int | None:
    """The round of the newest master that is there; None for a run that has none yet.

    Raises:
        LineageError: it was drawn with another seed, is of another method, or of that method set otherwise.
    """
    if not is_run(run):
        return None
    numbers = [folder.number for folder in scan_run(run) if folder.master is not None]
    if not numbers:
        return None
    with TensorFile(RoundPaths(run, max(numbers)).master, MasterHeader) as master:
        spec, known = master.header.spec, master.header.method
        if spec.seed != asked.seed:
            raise LineageError(
                f"{master.path}: of a federation with seed {spec.seed}, not {asked.seed}", hint=f"--seed {spec.seed}"
            )
        if known != asked.method:
            raise LineageError(f"{master.path}: of method {known!r}, not {asked.method!r}", hint=f"--method {known}")
        if spec.method_options != asked.method_options:
            found, other = (one.warmup_rounds for one in (spec.method_options, asked.method_options))
            raise LineageError(
                f"{master.path}: its warmup_rounds are {found or 'as in the paper'}, not {other or 'as in the paper'}",
                hint=f"--warmup-rounds {found}" if found else "leave out --warmup-rounds",
            )
        return master.header.round


def _start(federation: FederationSpec, out: Path, on_progress: Progress) -> None:
    if federation.base is None:
        raise UsageError("--base is missing", hint="or base = … in the --federation file")
    init(
        federation.base,
        out=out,
        task=federation.task,
        lora=federation.lora,
        private_base=federation.private_base,
        method=federation.method,
        method_options=federation.method_options,
        seed=federation.seed,
        on_progress=on_progress,
    )


def _result(
    run: Path,
    newest: int | None,
    rounds: tuple[SimulatedRound, ...],
    plan: SimulationPlan | None,
    attack: AttackSpec | None,
) -> SimulateResult:
    federation = sha256 = None
    if newest is not None:
        with TensorFile(RoundPaths(run, newest).master, MasterHeader) as master:
            federation, sha256 = federation_of(master), master.sha256
    return SimulateResult(
        path=str(run),
        federation=federation,
        round=newest or 0,
        sha256=sha256,
        rounds=rounds,
        plan=plan,
        attack=attack,
    )
