"""The federations of `methods.py`: one cell is one, played from its start and scored."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from kept_cells import EXAMPLES, kept
from msgspec.structs import replace

from fedlpp_cli import aggregate, evaluate, init, pack, quantize
from fedlpp_cli.artifact.run_folder import RELEASES, RoundPaths
from fedlpp_cli.cli.settings_file import federation_of
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.resident import Resident
from fedlpp_cli.errors import GateError
from fedlpp_cli.privacy.accountant import Spending, noise_multiplier_for
from fedlpp_cli.privacy.budget_ledger import read_ledger
from fedlpp_cli.progress import silent
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.methods import MethodSpec
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.settings import Settings, read_settings
from fedlpp_cli.records.specs import EvaluateSpec
from fedlpp_cli.steps.checkpoints import identity_of
from fedlpp_cli.steps.local_training import LocalRound, train_update, write_update
from fedlpp_cli.steps.packages import open_package
from fedlpp_cli.steps.private_training import PrivacySettings, PrivateTraining, open_private
from fedlpp_cli.tasks.data import load_data
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.poisson import sampling_rate

DELTA: Final = 1e-5
# Not a method: the example without an adapter, so that it shows what the trained head does alone.
HEAD_ALONE: Final = "head alone"


@dataclass(frozen=True)
class World:
    """An example, and at which size it is played. `max_length`, `lora`: in place of what its file says."""

    example: str
    file: str
    n_rounds: int
    n_steps: int
    batch_size: int
    n_rows: int
    max_length: int | None = None
    lora: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Cell:
    """One federation. `epsilon`: of each client over all rounds, None for a training as it comes."""

    method: str
    learning_rate: float
    epsilon: float | None
    seed: int


# What a method is told beside what all are told; everything else is the method's own default.
OWN: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "fedavg": {"quantize": {"bits": "full"}},
    "as-lora": {"method_options": {"warmup_rounds": 2}},
    HEAD_ALONE: {"lora": {"target_modules": ()}},
}


def play(world: World, cell: Cell) -> dict[str, Any]:
    """What a cell came to: now, or in an earlier run."""
    words = (word for word in vars(world).values() if not isinstance(word, tuple))
    return kept(("methods", *words, *vars(cell).values()), lambda: _play(world, cell))


def _play(world: World, cell: Cell) -> dict[str, Any]:
    """A federation that comes to no usable end counts as 0, and says why."""
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedlpp-bench-") as folder, quiet_libraries():
        os.environ["FEDLPP_STATE"] = f"{folder}/state"
        run, federation = Path(folder) / "run", _federation(world, cell)
        federation.check_method()
        try:
            _play_rounds(run, world, cell, federation)
            scores = _scores(run, world)
        except GateError as problem:
            scores = {"central": 0.0, "proxy": 0.0, "problem": str(problem)}
        sizes = _kilobytes(run)
        spent = [ledger.epsilon() for path in run.glob("*.budget") if (ledger := read_ledger(path)) is not None]
    return {**scores, **sizes, "epsilon": max(spent, default=None), "cpu_seconds": time.process_time() - start}


def _federation(world: World, cell: Cell) -> FederationSpec:
    settings, own = _settings(world), OWN.get(cell.method, {})
    method = "fedlpp" if cell.method == HEAD_ALONE else cell.method
    federation = federation_of(settings, base=None, method=method, seed=cell.seed)
    return dataclasses.replace(
        federation,
        task=replace(federation.task, max_length=world.max_length or federation.task.max_length),
        lora=replace(federation.lora, **{**dict(world.lora), **own.get("lora", {})}),
        quantize=replace(federation.quantize, **own.get("quantize", {})),
        train=replace(
            federation.train,
            steps=world.n_steps,
            batch_size=world.batch_size,
            learning_rate=cell.learning_rate,
            weight_decay=0.0,
        ),
        method_options=MethodSpec(**own.get("method_options", {})),
    )


def _play_rounds(run: Path, world: World, cell: Cell, federation: FederationSpec) -> None:
    """As `simulate`, which has no privacy for examples: with a ledger for each client."""
    clients = tuple(_settings(world).file.clients)
    init(
        federation.base,
        out=RoundPaths(run, 0).master,
        task=federation.task,
        lora=federation.lora,
        method=federation.method,
        method_options=federation.method_options,
        seed=federation.seed,
    )
    addressees = clients if federation.mask.client else (None,)
    for number in range(world.n_rounds):
        paths = RoundPaths(run, number)
        for addressee in addressees:
            _send(paths, federation, addressee)
        for client in clients:
            _train(paths, world, cell, client, paths.package_for(client if federation.mask.client else None))
        aggregate(
            paths.master,
            [paths.update(client) for client in clients],
            packages=[paths.package_for(addressee) for addressee in addressees],
            out=RoundPaths(run, number + 1).master,
            spec=federation.aggregate,
        )


def _send(paths: RoundPaths, federation: FederationSpec, client: str | None) -> None:
    proxy, package = paths.proxy_for(client), paths.package_for(client)
    quantize(
        paths.master, out=proxy, spec=federation.quantize, mask=federation.mask, client=client, base=federation.base
    )
    pack(proxy, out=package, train=federation.train, update=federation.update, ledger=paths.run / RELEASES)


def _train(paths: RoundPaths, world: World, cell: Cell, client: str, folder: Path) -> None:
    """As `client-train`, on a base that stays open."""
    package = open_package(folder)
    try:
        local = _resident(world).open_round(package, silent)
        examples = _examples(world, client, local)
        private = None if cell.epsilon is None else _private(paths.run, world, cell.epsilon, local, client, examples)
        trained = train_update(local, client, examples, None, silent, (), private)
        charge = (lambda sha256: None) if private is None else private.charge
        write_update(paths.update(client), None, trained, force=False, charge=charge)
    finally:
        package.proxy.close()


def _private(
    run: Path, world: World, epsilon: float, local: LocalRound, client: str, examples: Sequence[Example]
) -> PrivateTraining:
    """The noise with which all rounds cost `epsilon`, charged to the client's ledger."""
    recipe = local.package.folder.header.spec.train
    rate = sampling_rate(len(examples), recipe)
    noise = _noise_multiplier(epsilon, rate, world.n_rounds * world.n_steps)
    settings = PrivacySettings(
        spec=PrivacySpec(noise_multiplier=noise, delta=DELTA),
        ledger=run / f"{client}.budget",
        max_epsilon=epsilon,
        new_ledger=True,
    )
    training = identity_of(client, recipe, examples, device="cpu")
    return open_private(settings, Spending(noise, rate, world.n_steps), local.package, training, examples, None, None)


@lru_cache
def _noise_multiplier(epsilon: float, rate: float, n_steps: int) -> float:
    """Seconds for each client; the same in all cells."""
    return noise_multiplier_for(epsilon, DELTA, sampling_rate=rate, n_steps=n_steps)


@lru_cache
def _settings(world: World) -> Settings:
    return read_settings(EXAMPLES / world.example / world.file)


@lru_cache
def _resident(world: World) -> Resident:
    """Open for all cells: they differ in what is trained, not in the model."""
    base = _settings(world).needed_ref(None, "base")
    return Resident(base, {}, "cpu", ComputeSpec(batching="bucketed"))


_read: dict[tuple[World, str], tuple[Example, ...]] = {}


def _examples(world: World, client: str, local: LocalRound) -> tuple[Example, ...]:
    if (world, client) not in _read:
        data = _settings(world).client_data(client)
        assert data is not None
        _read[world, client] = load_data(data, local.task, columns={}).examples
    return _read[world, client]


def _scores(run: Path, world: World) -> dict[str, float]:
    """More is better: accuracy; of a language model the likelihood of a token, the inverse of its perplexity."""
    settings = _settings(world)
    scored = evaluate(
        [RoundPaths(run, world.n_rounds).master],
        data=settings.needed_ref(None, "test_data"),
        base=settings.needed_ref(None, "base"),
        spec=settings.resolve(EvaluateSpec, limit=world.n_rows),
        device="cpu",
    )
    rows = {row.role: row.scores for row in scored.rows}
    central = rows["central"]
    # What travels in full precision has no proxy beside it.
    both = {"central": central, "proxy": rows.get("proxy", central)}
    return {
        who: scores["accuracy"] if "accuracy" in scores else 1 / scores["perplexity"] for who, scores in both.items()
    }


def _kilobytes(run: Path) -> dict[str, float]:
    """Files of one client and round, mean over both."""
    packages = {path.parent for path in run.rglob("manifest.json")}
    down = [sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) for package in packages]
    up = [path.stat().st_size for path in run.glob("round-*/updates/*")]
    return {"kb_down": statistics.fmean(down) / 1e3, "kb_up": statistics.fmean(up) / 1e3 if up else 0.0}
