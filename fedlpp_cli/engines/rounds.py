"""One round of a simulation after the other: what is there stays, what is missing is made."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from fedlpp_cli.artifact.folder import BASE, MANIFEST
from fedlpp_cli.artifact.run_folder import RoundPaths
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.attackers import RoundAttack
from fedlpp_cli.engines.client_data import Clients, Cut, known_names, open_clients
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.partition import sample_clients
from fedlpp_cli.engines.resident import Resident
from fedlpp_cli.engines.roles import Roles, assign_roles
from fedlpp_cli.errors import FedlppError, LineageError, UsageError
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.rounding import mean_of
from fedlpp_cli.steps.aggregate import AggregateResult, aggregate
from fedlpp_cli.steps.client_state import ClientState, read_state
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.local_training import LocalRound, check_addressee, write_update
from fedlpp_cli.steps.pack import pack
from fedlpp_cli.steps.packages import open_package
from fedlpp_cli.steps.quantize import quantize


class SimulatedRound(Record, frozen=True, kw_only=True):
    """One round that was played. `master` is the sha256 of the one that it ends in, which is of the next round.

    `n_trained` of its `n_clients` trained now; the updates of the others were there. Losses are means over the clients
    that tell them. `attackers`: those of the clients who were against the owner.
    """

    round: int
    master: str
    n_clients: int
    n_trained: int
    n_examples: int
    loss_first: float | None
    loss_last: float | None
    attackers: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Simulation:
    """What does not change from round to round; see `simulate` for the fields."""

    run: Path
    federation: FederationSpec
    source: Mapping[str, RefLike] | Cut
    resident: Resident
    clients_per_round: int | None
    keep_updates: bool
    keep_state: bool
    attack: AttackSpec | None
    ledger: Path
    columns: Mapping[str, str]
    split: str | None
    on_progress: Progress
    _opened: tuple[Clients, Roles] | None = field(default=None, init=False)

    def play(self, number: int) -> SimulatedRound:
        """From the master of round `number` to that of the next one. Raises as `simulate`."""
        paths = RoundPaths(self.run, number)
        addressees = self._addressees(number)
        for client in addressees:
            self._send(paths, client)
        chosen, attackers, n_trained = self._train_all(paths, addressees[0])
        result = aggregate(
            paths.master,
            [paths.update(client) for client in chosen],
            packages=[paths.package_for(client) for client in addressees],
            out=RoundPaths(self.run, number + 1).master,
            spec=self.federation.aggregate,
            reference=None if self.federation.reference is None else paths.reference,
            on_progress=self.on_progress,
        )
        if not self.keep_updates:
            self._tidy(paths, chosen)
        return _played(number, result, n_trained, attackers)

    def _addressees(self, number: int) -> Sequence[str | None]:
        """For whom there is a package of its own: with masks for each client of the round, else one for all, None."""
        if not self.federation.mask.client:
            return (None,)
        names = known_names(self.source)
        if names is None:
            raise UsageError("[mask] client: clients need names before their data is read", hint="--clients N")
        return self._choose(assign_roles(names, attack=None, reference=None, seed=self.federation.seed), number)

    def _choose(self, roles: Roles, number: int) -> Sequence[str]:
        return sample_clients(roles.clients, self.clients_per_round, seed=self.federation.seed, round_number=number)

    def _send(self, paths: RoundPaths, client: str | None) -> None:
        """`quantize` and `pack`, as far as they have not been done."""
        proxy, package = paths.proxy_for(client), paths.package_for(client)
        if (package / MANIFEST).is_file():
            return
        if not proxy.is_file():
            quantize(
                paths.master,
                out=proxy,
                spec=self.federation.quantize,
                rank=self.federation.proxy_rank,
                mask=self.federation.mask,
                client=client,
                base=self.federation.base,
                base_out=self.run / BASE,
                base_spec=self.federation.base_quantize,
                on_progress=self.on_progress,
            )
        pack(
            proxy,
            out=package,
            train=self.federation.train,
            update=self.federation.update,
            base_artifact=self.run / BASE,
            ledger=self.ledger,
        )

    def _train_all(self, paths: RoundPaths, addressee: str | None) -> tuple[Sequence[str], Sequence[str], int]:
        """Who takes part, who of them attacks, and how many trained now. Attackers come last: they know the others.

        `addressee`: of one of the packages; None for one package that all have.
        """
        with self._opened_round(paths, addressee) as local:
            clients, roles = self._open_clients(local)
            chosen = self._choose(roles, paths.number)
            self.federation.check_population(len(roles.clients), len(chosen))
            honest = [client for client in chosen if client not in roles.attackers]
            attackers = [client for client in chosen if client in roles.attackers]
            attack = self._attack(paths, local, honest, attackers)
            if roles.reference is not None:
                self._train_reference(paths, local, clients, roles.reference)
            n_trained = 0
            for done, client in enumerate([*honest, *attackers]):
                self.on_progress(f"round {paths.number}, {client}", done, len(chosen))
                if paths.update(client).is_file():
                    _check_kept(paths.update(client), clients.known_size(client))
                    continue
                own = nullcontext(local) if addressee is None else self._opened_round(paths, client)
                with own as opened:
                    crafts = attack if client in attackers else None
                    self._train(paths, opened, clients, client, (done, len(chosen)), crafts)
                n_trained += 1
            return chosen, attackers, n_trained

    @contextmanager
    def _opened_round(self, paths: RoundPaths, addressee: str | None) -> Iterator[LocalRound]:
        package = open_package(paths.package_for(addressee))
        try:
            yield self.resident.open_round(package, self.on_progress)
        finally:
            package.proxy.close()

    def _train_reference(self, paths: RoundPaths, local: LocalRound, clients: Clients, owner: str) -> None:
        if paths.reference.is_file():
            _check_kept(paths.reference, clients.known_size(owner))
            return
        self._train(paths, local, clients, owner, (0, 0))

    def _attack(
        self, paths: RoundPaths, local: LocalRound, honest: Sequence[str], attackers: Sequence[str]
    ) -> RoundAttack | None:
        if self.attack is None:
            return None
        return RoundAttack(
            spec=self.attack,
            local=local,
            seed=self.federation.seed,
            honest=[paths.update(client) for client in honest],
            n_attackers=len(attackers),
        )

    def _open_clients(self, local: LocalRound) -> tuple[Clients, Roles]:
        if self._opened is None:
            clients = open_clients(
                self.source,
                local.task,
                columns=self.columns,
                split=self.split,
                seed=self.federation.seed,
                on_progress=self.on_progress,
            )
            roles = assign_roles(
                clients.names, attack=self.attack, reference=self.federation.reference, seed=self.federation.seed
            )
            self._opened = clients, roles
        return self._opened

    def _train(
        self,
        paths: RoundPaths,
        local: LocalRound,
        clients: Clients,
        client: str,
        place: tuple[int, int],
        attack: RoundAttack | None = None,
    ) -> None:
        """Train and write. Only honest clients keep states: the owner's reference and what is crafted have none."""

        def on_step(text: str, done: int, total: int) -> None:
            self.on_progress(f"round {paths.number}, {client}, step {done} of {total}, {text}", *place)

        is_reference = client == self.federation.reference
        keeps = self.keep_state and attack is None and not is_reference
        try:
            check_addressee(local.package, client)
            before = self._state(paths, local, client) if keeps else None
            examples = clients.examples(client)
            if attack is not None:
                examples = attack.poison(client, examples)
            trained = self.resident.train(local, client, examples, before, on_step)
            if attack is not None:
                trained = attack.craft(client, trained)
            # Forced with states only: a killed simulation can leave a state without its update.
            write_update(
                paths.reference if is_reference else paths.update(client),
                paths.state(client) if keeps else None,
                trained,
                force=keeps,
            )
        except FedlppError as problem:
            raise type(problem)(f"round {paths.number}, client {client!r}: {problem}", hint=problem.hint) from problem

    def _state(self, paths: RoundPaths, local: LocalRound, client: str) -> ClientState | None:
        """The client's last state: of the last round that it took part in."""
        for number in reversed(range(paths.number)):
            state = RoundPaths(self.run, number).state(client)
            if state.is_file():
                package = local.package
                return read_state(state, package.folder.header, package.proxy.header.spec, client=client)
        return None

    def _tidy(self, paths: RoundPaths, clients: Sequence[str]) -> None:
        """Remove what has been aggregated, and states that newer ones replace."""
        paths.reference.unlink(missing_ok=True)
        for client in clients:
            paths.update(client).unlink(missing_ok=True)
            if self.keep_state:
                for number in range(paths.number):
                    RoundPaths(self.run, number).state(client).unlink(missing_ok=True)


def _check_kept(path: Path, n_examples: int | None) -> None:
    """Refuse to go on with an update that was trained on other data than the client has now."""
    with TensorFile(path, UpdateHeader) as update:
        found = update.header.spec.metrics.n_examples
    if n_examples is not None and found != n_examples:
        raise LineageError(
            f"{path}: was trained on {found} examples, this client has {n_examples} now",
            hint="the data, --clients and --partition of before, or another --out",
        )


def _played(number: int, result: AggregateResult, n_trained: int, attackers: Sequence[str]) -> SimulatedRound:
    return SimulatedRound(
        round=number,
        master=str(result.sha256),
        n_clients=result.n_clients,
        n_trained=n_trained,
        n_examples=result.n_examples,
        loss_first=mean_of(client.loss_first for client in result.clients),
        loss_last=mean_of(client.loss_last for client in result.clients),
        attackers=tuple(attackers),
    )
