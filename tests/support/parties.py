"""One federation in a folder: an owner, clients, and the steps between them as Python calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlpp_cli import aggregate, client_train, init, pack, quantize
from fedlpp_cli.artifact.run_folder import RoundPaths
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import MethodSpec
from fedlpp_cli.records.specs import (
    FULL_PRECISION,
    AggregateSpec,
    BaseQuantSpec,
    LoraSpec,
    QuantSpec,
    TaskSpec,
    TrainSpec,
)
from support.tiny import prompt_rows, write_jsonl

RECIPE = TrainSpec(steps=3, batch_size=4, learning_rate=1e-2)


@dataclass
class Federation:
    """Keeps to the layout of `artifact/run_folder.py`."""

    folder: Path
    base: Path
    clients: tuple[str, ...] = ("a", "b")
    task: TaskSpec = field(default_factory=lambda: TaskSpec(max_length=32))
    lora: LoraSpec = field(default_factory=lambda: LoraSpec(rank=4))
    quantize: QuantSpec = field(default_factory=QuantSpec)
    train: TrainSpec = RECIPE
    round_updates: QuantSpec = FULL_PRECISION
    keep_states: bool = False
    private_base: bool = False
    method: str = "fedlpp"
    method_options: MethodSpec | None = None
    base_quantize: BaseQuantSpec | None = None
    aggregate: AggregateSpec = field(default_factory=AggregateSpec)
    mask: MaskSpec = field(default_factory=MaskSpec)

    def __post_init__(self) -> None:
        for number, client in enumerate(self.clients):
            write_jsonl(self.data(client), prompt_rows(12 + 4 * number, seed=number))

    def data(self, client: str) -> Path:
        return self.folder / "data" / f"{client}.jsonl"

    def round(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}"

    def master(self, number: int) -> Path:
        return self.round(number) / "master.safetensors"

    @property
    def addressees(self) -> tuple[str | None, ...]:
        """For whom there is a package of its own; None for one that is for all."""
        return self.clients if self.mask.client else (None,)

    def proxy(self, number: int, client: str | None = None) -> Path:
        return RoundPaths(self.folder, number).proxy_for(client)

    def package(self, number: int, client: str | None = None) -> Path:
        return RoundPaths(self.folder, number).package_for(client)

    def packages(self, number: int) -> list[Path]:
        return [self.package(number, client) for client in self.addressees]

    def update(self, number: int, client: str) -> Path:
        return self.round(number) / "updates" / f"{client}.safetensors"

    def updates(self, number: int) -> list[Path]:
        return [self.update(number, client) for client in self.clients]

    def state(self, number: int, client: str) -> Path:
        return self.round(number) / "states" / f"{client}.safetensors"

    def init(self) -> Any:
        return init(
            self.base, out=self.master(0), task=self.task, lora=self.lora, private_base=self.private_base,
            method=self.method, method_options=self.method_options, seed=7,
        )  # fmt: skip

    def send(self, number: int) -> None:
        """To each that gets a package of its own, or one for all."""
        for client in self.addressees:
            self.send_to(number, client)

    def send_to(self, number: int, client: str | None) -> None:
        """`quantize` and `pack`."""
        quantize(
            self.master(number),
            out=self.proxy(number, client),
            spec=self.quantize,
            mask=self.mask,
            client=client,
            base=self.base,
            base_out=self.folder / "base" if self.private_base else None,
            base_spec=self.base_quantize,
        )
        pack(
            self.proxy(number, client),
            out=self.package(number, client),
            train=self.train,
            update=self.round_updates,
            base_artifact=self.folder / "base" if self.private_base else None,
            ledger=self.folder / "releases.jsonl",
        )

    def train_client(self, number: int, client: str, **options: Any) -> Any:
        if self.keep_states:
            options.setdefault("state", self.state(number - 1, client) if number else None)
            options.setdefault("state_out", self.state(number, client))
        return client_train(
            self.package(number, client if client in self.addressees else None),
            client=client,
            data=self.data(client),
            out=self.update(number, client),
            base=None if self.private_base else self.base,
            device="cpu",
            **options,
        )

    def fold(self, number: int, updates: Sequence[Path] | None = None) -> Any:
        """`aggregate`."""
        return aggregate(
            self.master(number),
            updates or self.updates(number),
            packages=self.packages(number),
            out=self.master(number + 1),
            spec=self.aggregate,
        )

    def play(self, n_rounds: int) -> Any:
        """From `init` to the master of round `n_rounds`; the last result."""
        result = self.init()
        for number in range(n_rounds):
            self.send(number)
            for client in self.clients:
                self.train_client(number, client)
            result = self.fold(number)
        return result
